//! Files with a name: regular files, directories, memory devices such as `/dev/null`, and anything opened `O_PATH`.
//!
//! Everything about them is seen from outside: `/proc/PID/fd/N`, `fdinfo`, `stat(2)`. They are opened again by name, so
//! the name must lead to the same file, and the file must be what it was.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::messages::{FdTypes, FileEntry, FownEntry, RegFileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::procfs::link::Link;

/// Files that are opened again by their name.
#[derive(Debug)]
pub struct Regular;

/// Why such a file cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum RegularRefusal {
    /// Its name was removed.
    #[error("the file was unlinked; keeping unlinked files is not supported yet")]
    Unlinked,
    /// It cannot be reached from the root.
    #[error("the file cannot be reached from the root directory")]
    Unreachable,
    /// Another file has its name now.
    #[error("another file has taken the name {}", String::from_utf8_lossy(name).escape_debug())]
    Replaced {
        /// The name.
        name: Vec<u8>,
    },
    /// Its size is not what it was.
    #[error("the file has {is} bytes, it had {was} when it was dumped")]
    SizeChanged {
        /// Bytes when it was dumped.
        was: u64,
        /// Bytes now.
        is: u64,
    },
    /// Its type or permissions are not what they were.
    #[error("the file has mode {is:o}, it had {was:o} when it was dumped")]
    ModeChanged {
        /// When it was dumped.
        was: u32,
        /// Now.
        is: u32,
    },
    /// Images hold names as UTF-8.
    #[error("its name is not UTF-8, which images cannot hold")]
    NotUtf8,
    /// It is gone.
    #[error("the file does not exist any more")]
    Missing,
}

impl Explain for RegularRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::SizeChanged { .. } | Self::ModeChanged { .. } | Self::Missing => {
                Some("put the file back as it was when the process was dumped".into())
            }
            _ => None,
        }
    }
}

/// Devices of major number 1 that keep no state: null, zero, full, random, urandom.
const MEMORY_DEVICES: [u32; 5] = [3, 5, 7, 8, 9];

/// Whether a character device keeps no state of its own.
fn is_stateless_device(stat: &libc::stat) -> bool {
    libc::major(stat.st_rdev) == 1 && MEMORY_DEVICES.contains(&libc::minor(stat.st_rdev))
}

impl FileKind for Regular {
    const NAME: &'static str = "regular";
    const NOT_SAVED: &'static [&'static str] =
        &["contents of files that keep their names", "credentials of the opener", "read-ahead state"];
    const TYPE: FdTypes = FdTypes::Reg;
    type Image = RegFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        if !matches!(fd.link(), Link::Path(_) | Link::Deleted(_) | Link::Unreachable(_)) {
            return false;
        }
        match fd.file_type() {
            libc::S_IFREG | libc::S_IFDIR => true,
            libc::S_IFCHR => fd.is_path_only() || is_stateless_device(&fd.stat),
            _ => fd.is_path_only(),
        }
    }

    fn member(entry: &mut FileEntry) -> &mut Option<RegFileEntry> {
        &mut entry.reg
    }

    fn dump(_cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<RegFileEntry, Problem> {
        let name = match fd.link() {
            Link::Path(path) => path,
            Link::Unreachable(_) => return Err(Problem::new(RegularRefusal::Unreachable)),
            _ => return Err(Problem::new(RegularRefusal::Unlinked)),
        };
        check_name(name, &fd.stat)?;
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let pos = if fd.is_path_only() { 0 } else { fd.info.pos as u64 };
        Ok(describe(id, name, fd.flags(), pos, fown, &fd.stat))
    }

    fn check(_cx: &FilesRestore<'_>, image: &RegFileEntry) -> Result<(), Problem> {
        let path = OsStr::from_bytes(image.name.as_bytes());
        let about = |p: Problem| p.object(Object::Path(path.into()));
        if path.as_bytes().starts_with(b"/proc/") {
            // Of a task that is not there yet.
            return Ok(());
        }
        let stat = match nix::sys::stat::lstat(path) {
            Ok(stat) => stat,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(about(Problem::new(RegularRefusal::Missing))),
            Err(errno) => return Err(about(Problem::new(SysError { call: "lstat", errno }))),
        };
        if let Some(was) = image.mode
            && was != stat.st_mode
        {
            return Err(about(Problem::new(RegularRefusal::ModeChanged { was, is: stat.st_mode })));
        }
        if let Some(was) = image.size
            && was != stat.st_size as u64
        {
            return Err(about(Problem::new(RegularRefusal::SizeChanged { was, is: stat.st_size as u64 })));
        }
        Ok(())
    }

    fn restore(_cx: &mut FilesRestore<'_>, image: &RegFileEntry) -> Result<OwnedFd, Problem> {
        let path = OsStr::from_bytes(image.name.as_bytes());
        reopen(image).about(|| Object::Path(path.into())).while_trying_to("open the file again")
    }
}

/// Opens a file as it was open.
fn reopen(image: &RegFileEntry) -> Result<OwnedFd, Problem> {
    let flags = OFlag::from_bits_retain(image.flags as i32);
    // These act when a file is opened, and were spent then.
    let spent = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_TRUNC | OFlag::O_ASYNC;
    let open = (flags - spent) | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let path = OsStr::from_bytes(image.name.as_bytes());
    let fd = nix::fcntl::open(path, open, Mode::empty()).map_err(SysError::of("open"))?;
    if !flags.contains(OFlag::O_PATH) {
        if image.pos != 0 {
            nix::unistd::lseek(fd.as_fd(), image.pos as i64, nix::unistd::Whence::SeekSet)
                .map_err(SysError::of("lseek"))?;
        }
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
    }
    Ok(fd)
}

/// Refuses a file that its name does not lead to.
fn check_name(name: &[u8], stat: &libc::stat) -> Result<(), Problem> {
    if std::str::from_utf8(name).is_err() {
        return Err(Problem::new(RegularRefusal::NotUtf8));
    }
    let replaced = || Problem::new(RegularRefusal::Replaced { name: name.to_vec() });
    match nix::sys::stat::lstat(OsStr::from_bytes(name)) {
        Ok(found) if (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino) => Ok(()),
        Ok(_) => Err(replaced()),
        Err(Errno::ENOENT) => Err(Problem::new(RegularRefusal::Unlinked)),
        Err(errno) => Err(Problem::new(SysError { call: "lstat", errno }).step("find the file by its name")),
    }
}

fn describe(id: u32, name: &[u8], flags: i32, pos: u64, fown: FownEntry, stat: &libc::stat) -> RegFileEntry {
    RegFileEntry {
        id,
        flags: flags as u32,
        pos,
        fown,
        name: String::from_utf8_lossy(name).into_owned(),
        size: (stat.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(stat.st_size as u64),
        mode: Some(stat.st_mode),
        ..RegFileEntry::default()
    }
}

/// An entry for a file that no descriptor refers to.
pub(super) fn entry_for_path(
    id: u32,
    path: &[u8],
    flags: i32,
    stat: &libc::stat,
) -> Result<FileEntry, Problem> {
    let path = match crate::procfs::link::parse(path) {
        Link::Path(path) => path,
        Link::Deleted(_) => return Err(Problem::new(RegularRefusal::Unlinked)),
        _ => return Err(Problem::new(RegularRefusal::Unreachable)),
    };
    check_name(path, stat)?;
    let reg = describe(id, path, flags, 0, FownEntry::default(), stat);
    Ok(FileEntry { r#type: FdTypes::Reg.into(), id, reg: Some(reg), ..FileEntry::default() })
}
