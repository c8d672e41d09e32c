//! Names of unix sockets, and where the files behind them are made.
//!
//! A name is what the program gave to bind(2): the address says it word by word, relative or not, also when its file is
//! long gone. So binding must happen where that name leads to the right file. A thread may have a root and a working directory
//! of its own, apart from the rest of its process, which costs less than a process and disturbs nobody.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::stat::{FchmodatFlags, Mode};
use nix::unistd::{Gid, Uid};
use proto::messages::{FilePermsEntry, StasisSocketEntry, UnixSkEntry};

use super::{FilesRestore, mounted, sock_diag, unix};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::sys::socket::End;
use crate::sys::{mount, pidfd, socket};

/// Why a socket cannot get its name back.
#[derive(Debug, thiserror::Error)]
pub enum NameRefusal {
    /// Another file has it.
    #[error("another file, which is no socket, has the name of the unix socket")]
    OtherFile,
    /// Somebody else has it.
    #[error("the name is in use by {0}")]
    Taken(String),
    /// The directory is gone.
    #[error("the directory of the unix socket does not exist any more")]
    NoDirectory,
}

impl Explain for NameRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::OtherFile => "move that file away".into(),
            Self::Taken(_) => "stop that process, or have it use another name".into(),
            Self::NoDirectory => "make the directory again".into(),
        })
    }
}

/// The path in a name, without the zero byte at its end; none for an abstract name.
fn path_of(name: &[u8]) -> Option<&Path> {
    let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
    (!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)))
}

/// Whether a name leads to a file.
pub(super) fn is_path(name: &[u8]) -> bool {
    path_of(name).is_some()
}

/// A name for messages.
pub(super) fn printable(name: &[u8]) -> String {
    match (path_of(name), name.split_first()) {
        (Some(path), _) => path.display().to_string(),
        (None, Some((_, rest))) => format!("@{}", String::from_utf8_lossy(rest).escape_debug()),
        (None, None) => "without a name".into(),
    }
}

/// `struct sockaddr_un`, as long as the name is.
pub(super) fn address(name: &[u8]) -> Vec<u8> {
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend(name);
    address
}

/// A duplicate of a descriptor that the caller left open for us.
pub(super) fn duplicate(fd: i32) -> Result<OwnedFd, SysError> {
    pidfd::getfd(pidfd::open(std::process::id() as i32)?, fd)
}

/// Where the file of a socket belongs, seen from our root.
pub(super) fn file(entry: &UnixSkEntry, own: &StasisSocketEntry) -> Option<PathBuf> {
    let path = path_of(&entry.name).filter(|_| entry.deleted != Some(true))?;
    let root = own.root.as_deref().filter(|root| !root.is_empty() && path.is_absolute());
    Some(match (root, &entry.name_dir) {
        (Some(root), _) => Path::new(OsStr::from_bytes(root)).join(path.strip_prefix("/").unwrap_or(path)),
        (None, Some(dir)) if path.is_relative() => Path::new(dir).join(path),
        (None, _) => path.to_owned(),
    })
}

/// Finds out whether a name can be had.
pub(super) fn check(entry: &UnixSkEntry, own: &StasisSocketEntry) -> Result<(), Problem> {
    let Some(path) = file(entry, own) else {
        let sockets = sock_diag::unix_sockets()?;
        let kind = entry.r#type as u8;
        let taken = sockets.iter().find(|(_, s)| s.name == entry.name && s.kind == kind);
        let refuse = |ino: &u32| {
            let name = printable(&entry.name);
            Problem::new(NameRefusal::Taken(unix::owner(*ino)))
                .object(Object::Named { kind: "unix socket", name })
        };
        return taken.map_or(Ok(()), |(ino, _)| Err(refuse(ino)));
    };
    let about = |refusal| Err(Problem::new(refusal).object(Object::Path(path.clone())));
    match nix::sys::stat::lstat(&path) {
        Ok(stat) if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK => about(NameRefusal::OtherFile),
        Ok(stat) => {
            let sockets = sock_diag::unix_sockets()?;
            // The kernel tells the lower half of the number only.
            let ours =
                |facts: &sock_diag::UnixFacts| facts.file.is_some_and(|(_, ino)| ino == stat.st_ino as u32);
            match sockets.iter().find(|(_, s)| ours(s) && s.name == entry.name) {
                Some((ino, _)) => about(NameRefusal::Taken(unix::owner(*ino))),
                None => Ok(()),
            }
        }
        Err(Errno::ENOENT) if path.parent().is_some_and(|dir| !dir.exists()) => {
            about(NameRefusal::NoDirectory)
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Problem::new(SysError { call: "lstat", errno }).object(Object::Path(path))),
    }
}

/// Where names are bound.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// A directory that nobody else sees, for names that must not appear anywhere.
    private: Option<OwnedFd>,
    /// The file behind the address that was asked for last.
    reached: Option<OwnedFd>,
}

impl Place {
    /// Binds a socket to its name, at its place; a socket's file that is left over there goes.
    pub(super) fn bind(
        socket: BorrowedFd<'_>,
        entry: &UnixSkEntry,
        own: &StasisSocketEntry,
    ) -> Result<(), Problem> {
        let to = address(&entry.name);
        let Some(path) = path_of(&entry.name) else { return Ok(socket::bind(socket, &to)?) };
        let bind = || -> Result<(), Problem> {
            match nix::sys::stat::lstat(path) {
                Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFSOCK => {
                    nix::unistd::unlink(path).map_err(SysError::of("unlink"))?;
                }
                Ok(_) => return Err(Problem::new(NameRefusal::OtherFile)),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(Problem::new(SysError { call: "lstat", errno })),
            }
            socket::bind(socket, &to)?;
            entry.file_perms.as_ref().map_or(Ok(()), |perms| set_permissions(path, perms))
        };
        let root = own.root.as_deref().filter(|root| !root.is_empty());
        match (root, &entry.name_dir) {
            (Some(root), _) if path.is_absolute() => {
                elsewhere(Some(Path::new(OsStr::from_bytes(root))), Path::new("/"), bind)
            }
            (_, Some(dir)) if path.is_relative() => elsewhere(None, Path::new(dir), bind),
            _ => bind(),
        }
        .while_trying_to("bind it to its name")
    }

    /// Binds a socket to a name whose file nobody is to see; an abstract one is bound as it is.
    pub(super) fn bind_private(&mut self, socket: BorrowedFd<'_>, name: &[u8]) -> Result<(), Problem> {
        let to = address(name);
        let Some(path) = path_of(name) else {
            return Ok(socket::bind(socket, &to)?);
        };
        let root = match &mut self.private {
            Some(root) => root,
            none => none.insert(mount::private_tmpfs()?),
        };
        let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        elsewhere(Some(&root), Path::new("/"), || {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent).map_err(SysError::io("mkdir"))?;
            }
            socket::bind(socket, &to)?;
            nix::unistd::unlink(path).map_err(SysError::of("unlink"))?;
            Ok(())
        })
        .while_trying_to("bind it to a name that was removed")
    }

    /// An address that leads to a socket of ours, wherever its file is; good until the next call.
    pub(super) fn reach(&mut self, socket: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Problem> {
        if !is_path(name) {
            return Ok(address(name));
        }
        let file = self.reached.insert(socket::unix_file(socket)?);
        Ok(address(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes()))
    }
}

/// Makes a socket, without a name yet, unless it was bound to that when its mount was bare.
pub(super) fn make(
    cx: &FilesRestore<'_>,
    entry: &UnixSkEntry,
    own: &StasisSocketEntry,
) -> Result<OwnedFd, SysError> {
    match own.mnt_id.and_then(|_mount| mounted::bound_socket(cx, entry.id)) {
        Some(fd) => duplicate(fd),
        None => socket::create(libc::AF_UNIX, entry.r#type as i32, 0),
    }
}

/// Whether a socket has a name.
pub(super) fn is_bound(socket: BorrowedFd<'_>) -> Result<bool, SysError> {
    Ok(socket::address(socket, End::Own)?.len() > size_of::<u16>())
}

/// Gives the file that a socket is bound to its owner and mode.
pub(super) fn set_permissions_of(socket: BorrowedFd<'_>, entry: &UnixSkEntry) -> Result<(), Problem> {
    let Some(perms) = &entry.file_perms else { return Ok(()) };
    let file = socket::unix_file(socket)?;
    set_permissions(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), perms)
}

fn set_permissions(path: &Path, perms: &FilePermsEntry) -> Result<(), Problem> {
    let mode = Mode::from_bits_truncate(perms.mode);
    nix::unistd::chown(path, Some(Uid::from_raw(perms.uid)), Some(Gid::from_raw(perms.gid)))
        .map_err(SysError::of("chown"))?;
    nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)
        .map_err(SysError::of("chmod"))?;
    Ok(())
}

/// Does some work with another root and working directory, in a thread that leaves those of the process alone.
fn elsewhere(
    root: Option<&Path>,
    dir: &Path,
    work: impl FnOnce() -> Result<(), Problem> + Send,
) -> Result<(), Problem> {
    let work = || {
        nix::sched::unshare(CloneFlags::CLONE_FS).map_err(SysError::of("unshare(CLONE_FS)"))?;
        if let Some(root) = root {
            nix::unistd::chroot(root).map_err(SysError::of("chroot"))?;
        }
        nix::unistd::chdir(dir).map_err(SysError::of("chdir")).about(|| Object::Path(dir.into()))?;
        work()
    };
    let panicked = || Problem::new(SysError { call: "thread", errno: Errno::EIO });
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_panic| Err(panicked()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn names_are_printed() {
        assert_eq!(printable(b""), "without a name");
        assert_eq!(printable(b"/run/x\0"), "/run/x");
        assert_eq!(printable(b"\0abc"), "@abc");
    }

    #[test]
    fn files_are_found_from_our_root() {
        let entry = |name: &[u8], dir: Option<&str>| UnixSkEntry {
            name: name.to_vec(),
            name_dir: dir.map(str::to_owned),
            ..UnixSkEntry::default()
        };
        let own = StasisSocketEntry::default();
        let jailed = StasisSocketEntry { root: Some(b"/jail".to_vec()), ..own.clone() };
        assert_eq!(file(&entry(b"/a\0", None), &own), Some("/a".into()));
        assert_eq!(file(&entry(b"/a\0", None), &jailed), Some("/jail/a".into()));
        assert_eq!(file(&entry(b"a\0", Some("/dir")), &own), Some("/dir/a".into()));
        assert_eq!(file(&entry(b"\0a", None), &own), None);
        let gone = UnixSkEntry { deleted: Some(true), ..entry(b"/a\0", None) };
        assert_eq!(file(&gone, &own), None);
    }

    #[test]
    fn a_private_name_disturbs_nobody() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut place = Place::default();
        for name in [&b"/no/such/dir/at all\0"[..], b"relative\0", b"../up\0"] {
            let socket = socket::create(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
            place.bind_private(socket.as_fd(), name).unwrap();
            assert_eq!(socket::address(socket.as_fd(), End::Own).unwrap(), address(name));
            socket::listen(socket.as_fd(), 1).unwrap();
            let client = socket::create(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
            let to = place.reach(socket.as_fd(), name).unwrap();
            socket::connect(client.as_fd(), &to).unwrap();
            assert_eq!(socket::address(client.as_fd(), End::Peer).unwrap(), address(name));
        }
        assert!(!Path::new("/no").exists());
    }
}
