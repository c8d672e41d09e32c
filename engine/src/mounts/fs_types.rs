//! What each type of file system is for us: its number in images, and where a restore gets it from.

use proto::messages::Fstype;

/// A type that images have by name only.
pub(super) const UNSUPPORTED: u32 = Fstype::Unsupported as u32;
/// A type that the user allowed to be mounted again, by name.
pub(super) const AUTO: u32 = Fstype::Auto as u32;

/// Where a restore gets a file system from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Made new in the new namespaces; nothing in it is ours to keep.
    Inside,
    /// Made new in the new namespaces, and filled from an archive.
    Archive,
    /// Made of folders that other mounts of the namespace have.
    Layers,
    /// There is one of it for the whole machine, or for all who may mount it.
    Machine,
    /// On a disk or another machine: it must be there already.
    Outside,
    /// It cannot be brought back, with the reason.
    Never(&'static str),
}

/// Types with a number, and types that do not come from outside. All others do.
#[rustfmt::skip]
const TYPES: &[(&str, Fstype, Origin)] = &[
    ("proc", Fstype::Proc, Origin::Inside),
    ("sysfs", Fstype::Sysfs, Origin::Inside),
    ("devtmpfs", Fstype::Devtmpfs, Origin::Machine),
    ("binfmt_misc", Fstype::BinfmtMisc, Origin::Inside),
    ("tmpfs", Fstype::Tmpfs, Origin::Archive),
    ("ramfs", Fstype::Unsupported, Origin::Archive),
    ("devpts", Fstype::Devpts, Origin::Inside),
    ("simfs", Fstype::Simfs, Origin::Outside),
    ("pstore", Fstype::Pstore, Origin::Machine),
    ("securityfs", Fstype::Securityfs, Origin::Machine),
    ("fusectl", Fstype::Fusectl, Origin::Machine),
    ("debugfs", Fstype::Debugfs, Origin::Machine),
    ("tracefs", Fstype::Tracefs, Origin::Machine),
    ("configfs", Fstype::Unsupported, Origin::Machine),
    ("cgroup", Fstype::Cgroup, Origin::Inside),
    ("cgroup2", Fstype::Cgroup2, Origin::Inside),
    ("aufs", Fstype::Aufs, Origin::Outside),
    ("mqueue", Fstype::Mqueue, Origin::Inside),
    ("overlay", Fstype::Overlayfs, Origin::Layers),
    ("autofs", Fstype::Autofs, Origin::Never("the daemon that mounts what is used holds its other end")),
    ("fuse", Fstype::Fuse, Origin::Never("the program that serves it holds its other end")),
    ("fuseblk", Fstype::Unsupported, Origin::Never("the program that serves it holds its other end")),
    ("nsfs", Fstype::Unsupported, Origin::Never("it keeps a namespace, which has no name elsewhere")),
    ("bpf", Fstype::Unsupported, Origin::Never("what is pinned in it would be lost")),
    ("hugetlbfs", Fstype::Unsupported, Origin::Never("its files are memory, which is not kept")),
];

/// Its number in images.
pub(super) fn number(fstype: &str) -> u32 {
    TYPES.iter().find(|(name, ..)| *name == fstype).map_or(UNSUPPORTED, |(_, number, _)| *number as u32)
}

/// The type of a number, if it has one.
pub(super) fn name(number: u32) -> Option<&'static str> {
    let known = |(_, of_type, _): &&(&'static str, Fstype, Origin)| {
        *of_type as u32 == number && *of_type != Fstype::Unsupported
    };
    TYPES.iter().find(known).map(|(name, ..)| *name)
}

/// Where a restore gets file systems of this type from. Those that the user names may be mounted again from their source.
pub(super) fn origin(fstype: &str, enabled: &[String]) -> Origin {
    let known = TYPES.iter().find(|(name, ..)| *name == fstype).map(|(.., origin)| *origin);
    let is_enabled = || enabled.iter().any(|name| name == fstype || name == "all");
    match known {
        Some(Origin::Outside | Origin::Never(_)) | None if is_enabled() => Origin::Inside,
        Some(origin) => origin,
        None if fstype.starts_with("fuse.") => {
            Origin::Never("the program that serves it holds its other end")
        }
        None => Origin::Outside,
    }
}

/// Whether images have the contents of a file system of this type.
pub(super) fn has_archive(fstype: &str, enabled: &[String]) -> bool {
    // There is one for the machine, but what the tree made in it may not be there any more.
    origin(fstype, enabled) == Origin::Archive || fstype == "devtmpfs"
}

/// Options that the kernel shows for a file system of this type but does not take.
pub(super) fn is_taken(fstype: &str, option: &str) -> bool {
    let key = option.split('=').next().unwrap_or(option);
    match fstype {
        // Everywhere it only tells that SELinux is there.
        _ if key == "seclabel" => false,
        // Those of the one hierarchy belong to the machine.
        "cgroup2" | "devtmpfs" => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_numbers_and_origins() {
        assert_eq!((number("overlay"), name(17)), (17, Some("overlay")));
        assert_eq!((number("ext4"), name(0), name(99)), (0, None, None));
        assert_eq!(origin("ext4", &[]), Origin::Outside);
        assert_eq!(origin("ext4", &["ext4".into()]), Origin::Inside);
        assert_eq!(origin("tmpfs", &["all".into()]), Origin::Archive);
        assert!(matches!(origin("fuse.sshfs", &[]), Origin::Never(_)));
        assert_eq!(origin("fuse.sshfs", &["all".into()]), Origin::Inside);
    }
}
