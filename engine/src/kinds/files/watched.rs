//! Watched inodes, which inotify and fanotify have in common: how one is found when only its number is told, and again
//! at restore.
//!
//! The kernel tells number, device and handle of an inode, but no path. The handle is opened, which mostly finds a name
//! that the kernel still remembers; where it does not, or the filesystem opens no handles (overlayfs), the files that the
//! task has itself are looked through, and on request (`--force-irmap`) directories. At restore the path is taken where there is one, since it holds on another machine
//! or a copied disk too; else the handle is opened again.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;
use proto::messages::{FhEntry, FhEntrySizes};

use super::{FilesDump, FilesRestore, inode_scan};
use crate::dump::inspect::read_proc;
use crate::error::{Class, Explain, Object, Problem, SysError};
use crate::procfs::fsnotify::{Handle, Inode};
use crate::procfs::link::{self, Link, NamespaceType};
use crate::procfs::mountinfo;
use crate::sys::handle;

/// Why what is watched cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum WatchedRefusal {
    /// There is no way to it.
    #[error("it watches inode {inode} of device {}, to which no path is known", DeviceName(*device))]
    NoPath {
        /// The inode's number.
        inode: u64,
        /// The filesystem's device.
        device: u32,
    },
    /// It is gone.
    #[error("the file that it watches does not exist any more")]
    Missing,
}

impl Explain for WatchedRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            Self::NoPath { .. } => {
                "pass --force-irmap to look for one, or --irmap-scan-path DIR to look there, or end the watch first"
            }
            Self::Missing => "put the file back under its name",
        };
        Some(text.to_owned())
    }
}

/// A device in the kernel's own encoding (`MKDEV` of `include/linux/kdev_t.h`).
struct DeviceName(u32);

impl DeviceName {
    fn numbers(&self) -> (u32, u32) {
        (self.0 >> 20, self.0 & 0xf_ffff)
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.numbers();
        write!(f, "{major}:{minor}")
    }
}

/// Major and minor number of a device in the kernel's own encoding.
pub fn device_numbers(device: u32) -> (u32, u32) {
    DeviceName(device).numbers()
}

/// What an image says of a watched inode.
#[derive(Debug)]
pub struct Watched {
    /// Its handle, and its path if it has one.
    pub handle: FhEntry,
    /// The entry of a file that leads to it, where no path does: it was removed. Otherwise 0.
    pub file: u32,
}

/// Describes an inode that the task `pid` watches.
pub fn describe(cx: &mut FilesDump<'_>, pid: i32, inode: &Inode) -> Result<Watched, Problem> {
    let mut handle = describe_handle(inode.handle.as_ref());
    if let Some(fd) = inode.handle.as_ref().and_then(|handle| open(inode.device, inode.number, handle)) {
        handle.path = path_of(&format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let stat = nix::sys::stat::fstat(&fd).map_err(SysError::of("fstat"))?;
        if handle.path.is_none() && stat.st_nlink == 0 {
            return Ok(Watched { handle, file: cx.dump_own(&fd)? });
        }
        let has_path =
            handle.path.is_some() || own_path(pid, inode, &mut handle) || scan(cx, inode, &mut handle)?;
        if !has_path && cx.options.inside.has(NamespaceType::Mnt) && has_name(&fd) {
            // Its file system may be one that a restore makes anew, where the handle leads nowhere; but a mount that covers it is
            // no obstacle there.
            if let Ok(file) = cx.dump_own(&fd) {
                return Ok(Watched { handle, file });
            }
        }
        // The handle will have to do, where nobody insists on a path: it can be opened.
        if has_path || cx.options.files.irmap.is_none() {
            return Ok(Watched { handle, file: 0 });
        }
    } else if own_path(pid, inode, &mut handle) || scan(cx, inode, &mut handle)? {
        return Ok(Watched { handle, file: 0 });
    }
    Err(Problem::new(WatchedRefusal::NoPath { inode: inode.number, device: inode.device }))
}

/// Whether the kernel knows a name of what was opened by its handle; else it shows a bare slash (`d_path` of a disconnected
/// entry), as it does for the root directory, which nothing covers.
fn has_name(fd: &OwnedFd) -> bool {
    nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).is_ok_and(|link| link != "/")
}

fn describe_handle(handle: Option<&Handle>) -> FhEntry {
    let (kind, bytes) = handle.map_or((0, &[][..]), |handle| (handle.kind, handle.bytes.as_slice()));
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    });
    let mut words: Vec<u64> = words.collect();
    words.resize(words.len().max(FhEntrySizes::MinEntries as usize), 0);
    FhEntry { bytes: bytes.len() as u32, r#type: kind, handle: words, ..FhEntry::default() }
}

fn parse_handle(entry: &FhEntry) -> Option<Handle> {
    let bytes: Vec<u8> = entry.handle.iter().flat_map(|word| word.to_le_bytes()).collect();
    let bytes = bytes.get(..entry.bytes as usize)?;
    (!bytes.is_empty()).then(|| Handle { kind: entry.r#type, bytes: bytes.to_vec() })
}

/// Opens an inode by its handle, through whichever mount of its filesystem lets it be reached.
fn open(device: u32, number: u64, handle: &Handle) -> Option<OwnedFd> {
    let mounts = read_proc("/proc/self/mountinfo".into(), mountinfo::parse).ok()?;
    let of_device = mounts.iter().filter(|mount| mount.dev == DeviceName(device).numbers());
    let opened = of_device.filter_map(|mount| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let path = OsStr::from_bytes(&mount.mountpoint);
        let mount = nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty()).ok()?;
        let fd = handle::open(mount.as_fd(), handle.kind, &handle.bytes).ok()?;
        (nix::sys::stat::fstat(&fd).ok()?.st_ino == number).then_some(fd)
    });
    // One that has a name there is better than one that has none.
    let mut best = None;
    for fd in opened {
        if path_of(&format!("/proc/self/fd/{}", fd.as_raw_fd())).is_some() {
            return Some(fd);
        }
        best.get_or_insert(fd);
    }
    best
}

/// The path of what a link of /proc leads to, if that path leads there too.
fn path_of(link: &str) -> Option<String> {
    let text = nix::fcntl::readlink(link).ok()?;
    let Link::Path(path) = link::parse(text.as_bytes()) else { return None };
    let behind = nix::sys::stat::stat(link).ok()?;
    let named = nix::sys::stat::lstat(OsStr::from_bytes(path)).ok()?;
    let same = (behind.st_dev, behind.st_ino) == (named.st_dev, named.st_ino);
    String::from_utf8(path.to_vec()).ok().filter(|_| same)
}

/// Looks for an inode among the files and directories that a task has itself.
fn own_path(pid: i32, inode: &Inode, handle: &mut FhEntry) -> bool {
    let fds = super::list(pid).into_iter().map(|fd| format!("/proc/{pid}/fd/{fd}"));
    let others = ["cwd", "root", "exe"].map(|name| format!("/proc/{pid}/{name}"));
    let leads_there = |link: &String| {
        let Ok(stat) = nix::sys::stat::stat(link.as_str()) else { return false };
        let device = (libc::major(stat.st_dev), libc::minor(stat.st_dev));
        stat.st_ino == inode.number && device == DeviceName(inode.device).numbers()
    };
    let found = fds.chain(others).filter(leads_there).find_map(|link| path_of(&link));
    handle.path = handle.path.take().or(found);
    handle.path.is_some()
}

/// Looks for an inode in the directories that the user named, or else in all of its filesystem, if that was asked for.
fn scan(cx: &FilesDump<'_>, inode: &Inode, handle: &mut FhEntry) -> Result<bool, Problem> {
    let Some(places) = &cx.options.files.irmap else { return Ok(false) };
    let device = DeviceName(inode.device).numbers();
    let mut places = places.clone();
    if places.is_empty() {
        let mounts = read_proc("/proc/self/mountinfo".into(), mountinfo::parse)?;
        let of_device = mounts.into_iter().filter(|mount| mount.dev == device);
        places.extend(of_device.map(|mount| PathBuf::from(OsStr::from_bytes(&mount.mountpoint))));
    }
    let found = inode_scan::find(&places, device, inode.number);
    handle.path = found.and_then(|path| path.into_os_string().into_string().ok());
    Ok(handle.path.is_some())
}

/// How a watched inode is reached.
#[derive(Debug)]
pub enum Way {
    /// By this path; a symbolic link there is the watched inode itself.
    Path(PathBuf),
    /// By this descriptor.
    Fd(OwnedFd),
}

impl Way {
    /// A path for calls that take one, and whether a link at its end must be followed.
    pub fn path(&self) -> (PathBuf, bool) {
        match self {
            Self::Path(path) => (path.clone(), false),
            Self::Fd(fd) => (format!("/proc/self/fd/{}", fd.as_raw_fd()).into(), true),
        }
    }
}

/// Where filesystems are that a restore itself fills.
const MADE_BY_RESTORE: [&str; 2] = ["/proc/", "/dev/pts/"];

/// Refuses an inode that cannot be reached any more.
pub fn check(device: u32, number: u64, file: u32, entry: &FhEntry) -> Result<(), Problem> {
    let Some(path) = &entry.path else {
        let found = file != 0 || parse_handle(entry).is_some_and(|h| open(device, number, &h).is_some());
        return if found { Ok(()) } else { Err(no_path(device, number)) };
    };
    if MADE_BY_RESTORE.iter().any(|place| path.starts_with(place))
        || absolute(path).symlink_metadata().is_ok()
    {
        return Ok(());
    }
    Err(Problem::new(WatchedRefusal::Missing).object(Object::Path(absolute(path))))
}

/// Finds it again.
pub fn reach(
    cx: &mut FilesRestore<'_>,
    place: (u32, u64),
    file: u32,
    entry: &FhEntry,
) -> Result<Way, Problem> {
    let (device, number) = place;
    if file != 0 {
        let fd = cx.open(file)?.try_clone_to_owned().map_err(SysError::io("fcntl(F_DUPFD_CLOEXEC)"))?;
        return Ok(Way::Fd(fd));
    }
    if let Some(path) = &entry.path {
        return Ok(Way::Path(absolute(path)));
    }
    let opened = parse_handle(entry).and_then(|handle| open(device, number, &handle));
    opened.map(Way::Fd).ok_or_else(|| no_path(device, number))
}

fn no_path(device: u32, inode: u64) -> Problem {
    Problem::new(WatchedRefusal::NoPath { inode, device })
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_survive_their_image() {
        let handle = Handle { kind: 1, bytes: vec![0xae, 0xbf, 0x98, 0, 1, 2, 3, 4, 5] };
        let entry = describe_handle(Some(&handle));
        assert_eq!((entry.bytes, entry.handle.len()), (9, 16));
        assert_eq!(parse_handle(&entry), Some(handle));
        assert_eq!(parse_handle(&describe_handle(None)), None);
    }

    #[test]
    fn a_handle_that_claims_too_much_is_none() {
        let entry = FhEntry { bytes: 4096, handle: vec![0; 16], ..FhEntry::default() };
        assert_eq!(parse_handle(&entry), None);
    }
}
