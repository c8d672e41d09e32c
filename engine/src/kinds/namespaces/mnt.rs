//! Mount namespaces (mount_namespaces(7)), as far as they are made of what a restore finds again by itself.
//!
//! The root is the directory that `--root` names. Proc, sysfs, devpts, mqueue and empty tmpfs file systems are mounted again, and
//! directories of the root's own file system are bound again. What else is mounted is refused by name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::catalogue::MNTS;
use proto::messages::{Fstype, MntEntry};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::dump::inspect::read_proc;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::procfs::link::NamespaceType;
use crate::procfs::mountinfo::{self, Mount};

/// Mount namespaces.
#[derive(Debug)]
pub struct MntNamespace;

/// Why a mount cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum MountRefusal {
    /// A file system that is not mounted again.
    #[error("mounts of {0} are not supported yet")]
    FileSystem(String),
    /// A part of another file system.
    #[error("it shows {0} of a file system that the tree has no other mount of")]
    Part(String),
    /// Others see what is mounted there.
    #[error("it shares its mounts with others, which is not supported yet")]
    Shared,
    /// A tmpfs with files.
    #[error("its contents are not saved yet")]
    Contents,
    /// No directory to become the root.
    #[error("the tree has a mount namespace of its own, and nobody says which directory becomes its root")]
    NoRoot,
}

impl Explain for MountRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NoRoot => Some("pass --root DIR".into()),
            Self::Shared => Some("make it private (mount --make-private)".into()),
            _ => Some("unmount it first".into()),
        }
    }
}

/// Options of a mount, as mountinfo shows them, and their flags.
const OPTIONS: [(&str, MsFlags); 8] = [
    ("ro", MsFlags::MS_RDONLY),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
    ("sync", MsFlags::MS_SYNCHRONOUS),
];

fn flags(options: &str) -> MsFlags {
    let known = OPTIONS.iter().filter(|(name, _)| options.split(',').any(|option| option == *name));
    known.fold(MsFlags::empty(), |all, (_, flag)| all | *flag)
}

/// How a file system is mounted again: its type in images, and its name.
fn known(fstype: &str) -> Option<Fstype> {
    Some(match fstype {
        "proc" => Fstype::Proc,
        "sysfs" => Fstype::Sysfs,
        "devpts" => Fstype::Devpts,
        "mqueue" => Fstype::Mqueue,
        "tmpfs" => Fstype::Tmpfs,
        _ => return None,
    })
}

fn name_of(fstype: Fstype) -> Option<&'static str> {
    ["proc", "sysfs", "devpts", "mqueue", "tmpfs"].into_iter().find(|name| known(name) == Some(fstype))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn mounts(cx: NamespaceDump<'_>) -> Result<Vec<Mount>, Problem> {
    read_proc(format!("/proc/{}/mountinfo", cx.root), mountinfo::parse)
}

/// The mount that is the root of all others.
fn root_of(mounts: &[Mount]) -> Option<&Mount> {
    mounts.iter().find(|mount| mount.mountpoint == b"/")
}

fn is_part_of(mount: &Mount, root: &Mount) -> bool {
    mount.dev == root.dev && mount.root.starts_with(&root.root)
}

fn refuse(mount: &Mount, root: &Mount) -> Option<MountRefusal> {
    let fstype = text(&mount.fstype);
    if mount.propagation.shared.is_some() || mount.propagation.master.is_some() {
        return Some(MountRefusal::Shared);
    }
    if is_part_of(mount, root) {
        return None;
    }
    match known(&fstype) {
        None => Some(MountRefusal::FileSystem(fstype)),
        Some(_) if mount.root != b"/" => Some(MountRefusal::Part(text(&mount.root))),
        Some(Fstype::Tmpfs) => {
            let entries = std::fs::read_dir(OsStr::from_bytes(&mount.mountpoint));
            entries.is_ok_and(|mut entries| entries.next().is_some()).then_some(MountRefusal::Contents)
        }
        Some(_) => None,
    }
}

impl NamespaceKind for MntNamespace {
    const NAME: &'static str = "mnt-namespace";
    const NOT_SAVED: &'static [&'static str] = &["ids of mounts"];
    const TYPE: NamespaceType = NamespaceType::Mnt;

    fn look(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        let mounts = match mounts(cx) {
            Ok(mounts) => mounts,
            Err(problem) => return problems.push(problem),
        };
        let Some(root) = root_of(&mounts) else { return };
        problems.extend(mounts.iter().filter_map(|mount| {
            let path = PathBuf::from(OsStr::from_bytes(&mount.mountpoint));
            Some(Problem::new(refuse(mount, root)?).object(Object::Path(path)))
        }));
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let mounts = mounts(cx)?;
        let entries: Vec<MntEntry> = mounts
            .iter()
            .map(|mount| {
                let fstype = known(&text(&mount.fstype)).unwrap_or(Fstype::Unsupported);
                let options = text(&mount.options);
                MntEntry {
                    fstype: fstype as u32,
                    fsname: (fstype == Fstype::Unsupported).then(|| text(&mount.fstype)),
                    mnt_id: mount.id as u32,
                    root_dev: mount.dev.0 << 20 | mount.dev.1,
                    parent_mnt_id: mount.parent as u32,
                    flags: flags(&options).bits() as u32,
                    sb_flags: Some(flags(&text(&mount.super_options)).bits() as u32),
                    root: text(&mount.root),
                    mountpoint: text(&mount.mountpoint),
                    source: text(&mount.source),
                    options: file_system_options(&text(&mount.super_options)),
                    ..MntEntry::default()
                }
            })
            .collect();
        images.write(&MNTS, cx.id.into(), &entries)
    }

    fn check(cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>) {
        if cx.options.root.is_none() {
            problems.push(Problem::new(MountRefusal::NoRoot));
        }
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        let new_root = cx.options.root.as_deref().ok_or_else(|| Problem::new(MountRefusal::NoRoot))?;
        let new_root = new_root.canonicalize().map_err(SysError::io("realpath"));
        let new_root = new_root.about(|| Object::Path(cx.options.root.clone().unwrap_or_default()))?;
        let entries: Vec<MntEntry> = cx.images.read(&MNTS, cx.id.into())?;
        let root = entries.iter().find(|entry| entry.mountpoint == "/");
        let root = root.ok_or_else(|| invalid(&MNTS, cx.id.into(), "there is no root mount"))?;
        call(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
        // A mount of its own, whether the directory is one or not, and with all that is mounted in it: in a new user
        // namespace, what was mounted before it comes along as a whole or not at all (mount_namespaces(7)).
        call(Some(&new_root), &new_root, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
        for entry in entries.iter().filter(|entry| entry.mountpoint != "/") {
            restore_mount(&new_root, root, entry).about(|| Object::Path(entry.mountpoint.clone().into()))?;
        }
        enter(&new_root).about(|| Object::Path(new_root.clone()))
    }
}

/// Options of a file system that are not flags of every file system.
fn file_system_options(options: &str) -> String {
    let general =
        |option: &&str| matches!(*option, "rw" | "ro") || OPTIONS.iter().any(|(name, _)| name == option);
    options.split(',').filter(|option| !general(option)).collect::<Vec<_>>().join(",")
}

fn restore_mount(new_root: &Path, root: &MntEntry, entry: &MntEntry) -> Result<(), Problem> {
    let below = |path: &str| {
        let relative = Path::new(path).components().filter(|c| matches!(c, std::path::Component::Normal(_)));
        new_root.join(relative.collect::<PathBuf>())
    };
    let target = below(&entry.mountpoint);
    let flags = MsFlags::from_bits_truncate(u64::from(entry.flags));
    if entry.root_dev == root.root_dev {
        let path = entry.root.strip_prefix(&root.root).unwrap_or(&entry.root);
        call(Some(&below(path)), &target, None, MsFlags::MS_BIND, None)?;
        return call(None, &target, None, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, None);
    }
    let fstype = Fstype::try_from(entry.fstype as i32).ok().and_then(name_of);
    let fstype = fstype.ok_or_else(|| Problem::new(MountRefusal::FileSystem(entry.fsname().to_owned())))?;
    let options = match fstype {
        "devpts" => format!("newinstance,{}", entry.options),
        "tmpfs" => tmpfs_options(&entry.options),
        _ => String::new(),
    };
    call(Some(Path::new(&entry.source)), &target, Some(fstype), flags, Some(options.trim_matches(',')))
}

/// Options of tmpfs that a mount takes as they are shown.
fn tmpfs_options(options: &str) -> String {
    let known = |option: &&str| {
        ["size=", "nr_inodes=", "mode=", "uid=", "gid="].iter().any(|k| option.starts_with(k))
    };
    options.split(',').filter(known).collect::<Vec<_>>().join(",")
}

fn call(
    source: Option<&Path>,
    target: &Path,
    fstype: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), Problem> {
    mount(source, target, fstype, flags, options).map_err(SysError::of("mount")).map_err(Problem::new)
}

/// Makes a directory our root, and takes away what was there before (pivot_root(2)).
fn enter(new_root: &Path) -> Result<(), Problem> {
    nix::unistd::chdir(new_root).map_err(SysError::of("chdir"))?;
    nix::unistd::pivot_root(".", ".").map_err(SysError::of("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(SysError::of("umount2"))?;
    nix::unistd::chdir("/").map_err(SysError::of("chdir"))?;
    Ok(())
}
