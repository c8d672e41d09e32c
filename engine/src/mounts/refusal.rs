//! Why a mount stands in the way, and what to do about it.

use crate::error::{Class, Explain};

/// A mount, or a part of it, that cannot be brought back.
#[derive(Debug, thiserror::Error)]
pub enum MountRefusal {
    /// A procfs that has to be mounted last.
    #[error(
        "it shows a pid namespace below that of the root of the tree, and {0}, which is not supported yet"
    )]
    OtherPids(&'static str),
    /// Images hold names as UTF-8.
    #[error("its names are not UTF-8, which images cannot hold")]
    NotUtf8,
    /// Its file system is on a disk, say.
    #[error("its file system ({fstype}) is outside, and no root or external mount has it")]
    Outside {
        /// The type.
        fstype: String,
        /// Where it is mounted.
        mountpoint: String,
        /// Whether a restore could mount it again from its source.
        may_enable: bool,
    },
    /// A file system that others have mounted, too.
    #[error("its file system ({fstype}) is used outside of the tree, too")]
    Used {
        /// The type.
        fstype: String,
        /// Where it is mounted.
        mountpoint: String,
    },
    /// A type that cannot be brought back.
    #[error("a file system of type {fstype} cannot be brought back: {reason}")]
    Never {
        /// The type.
        fstype: String,
        /// Why.
        reason: &'static str,
        /// Where it is mounted.
        mountpoint: String,
    },
    /// It shares events with mounts outside.
    #[error("it is in a peer group with mounts outside of the tree")]
    SharedOutside {
        /// Whether it is external itself.
        is_external: bool,
        /// Where it is mounted.
        mountpoint: String,
    },
    /// It receives events from mounts outside.
    #[error("it is a slave of a mount outside of the tree")]
    MasterOutside {
        /// Whether it is external itself.
        is_external: bool,
        /// Where it is mounted.
        mountpoint: String,
    },
    /// An option names a mount that is not there.
    #[error("{option} names a mount, but nothing is mounted there")]
    NotThere {
        /// The option.
        option: String,
    },
    /// It was not found outside.
    #[error("it is external, but no mount that we see has its file system")]
    NotFound {
        /// Where it is mounted.
        mountpoint: String,
    },
    /// Nobody says what an external mount is now.
    #[error("it is external, with the name {key}, and nothing was given for it")]
    NotGiven {
        /// Its key.
        key: String,
    },
    /// The root is not there, or not a mount point.
    #[error("the root of its namespace is to be {path}, which is not a mount point")]
    RootNotMountPoint {
        /// The path.
        path: String,
    },
    /// The root was external, and nobody says where it is.
    #[error("the root of its namespace was outside, and no mount that we see has its file system")]
    NoRoot,
    /// What it was mounted on has no such folder any more.
    #[error("what it is mounted on has no {place}")]
    NoPlace {
        /// The place, from the root of the parent.
        place: String,
    },
    /// Peer groups that cannot be made.
    #[error("its peer group has parts of a file system that no mount has in common")]
    Scattered,
    /// Nothing leads to a file system whose contents must be kept.
    #[error("it is covered by other mounts, so that its contents cannot be read")]
    Covered,
}

fn by_name(mountpoint: &str) -> String {
    format!("pass --external mnt[{mountpoint}]:NAME, and at restore --external mnt[NAME]:PATH")
}

impl Explain for MountRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Outside { fstype, mountpoint, may_enable } => {
                let enable = format!(", or --enable-fs {fstype} to mount it again from its source");
                let enable = if *may_enable { enable.as_str() } else { "" };
                Some(format!("{}; or pass --external mnt[] to find it{enable}", by_name(mountpoint)))
            }
            Self::Used { mountpoint, .. } => {
                Some(format!("{}; or pass --external mnt[] to find it", by_name(mountpoint)))
            }
            Self::Never { mountpoint, .. } => {
                Some(format!("unmount it first, {}, or leave it out with --skip-mnt", by_name(mountpoint)))
            }
            Self::SharedOutside { is_external: true, .. } => {
                Some("pass --enable-external-sharing, or --external mnt[]:s".into())
            }
            Self::MasterOutside { is_external: true, .. } => {
                Some("pass --enable-external-masters, or --external mnt[]:m".into())
            }
            Self::SharedOutside { mountpoint, .. } | Self::MasterOutside { mountpoint, .. } => {
                Some(format!("make it private (mount --make-private), or {}", by_name(mountpoint)))
            }
            Self::NotFound { mountpoint } => Some(by_name(mountpoint)),
            Self::NotGiven { key } => Some(format!("pass --external mnt[{key}]:PATH")),
            Self::RootNotMountPoint { path } => {
                Some(format!("bind it to itself first (mount --bind {path} {path})"))
            }
            Self::NoRoot => Some("pass --root DIR, a folder on which its root is mounted".into()),
            Self::NoPlace { .. } => Some("make the missing folder or file in what it is mounted on".into()),
            Self::OtherPids(_) | Self::NotUtf8 | Self::NotThere { .. } | Self::Scattered | Self::Covered => {
                None
            }
        }
    }
}
