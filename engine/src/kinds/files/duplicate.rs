//! Descriptors whose duplicate tells all that `/proc` would, in a fraction of the time that the kernel takes to make a file
//! there: sockets, of which a table may have many.
//!
//! Whether execve closes the descriptor the task itself is asked later (`dump/descriptors.rs`). Locks of processes on the
//! socket are found by asking for one (`F_GETLK`). A lock of flock(2) is not: there is one description of a socket, so
//! nobody is ever kept from taking that.

use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::fstat;

use crate::options::FileOptions;
use crate::procfs::fdinfo::FdInfo;
use crate::sys::socket;

/// What is found out once for all descriptors.
#[derive(Debug)]
pub(super) struct Duplicates {
    /// The device that all sockets are on.
    sockets: u64,
}

impl Duplicates {
    /// None where they would not tell all.
    pub(super) fn new(options: &FileOptions) -> Option<Self> {
        // Those may be known by the mount that fdinfo shows.
        if !options.external.is_empty() {
            return None;
        }
        let one = socket::create(libc::AF_UNIX, libc::SOCK_STREAM, 0).ok()?;
        Some(Self { sockets: fstat(one).ok()?.st_dev })
    }

    /// What fdinfo says of a socket without locks; none of others.
    pub(super) fn look(&self, dup: BorrowedFd<'_>, stat: &libc::stat) -> Option<FdInfo> {
        if stat.st_dev != self.sockets || stat.st_mode & libc::S_IFMT != libc::S_IFSOCK || is_locked(dup)? {
            return None;
        }
        let flags = fcntl(dup, FcntlArg::F_GETFL).ok()? & !libc::O_CLOEXEC;
        Some(FdInfo { pos: 0, flags, mnt_id: 0, ino: Some(stat.st_ino), extra: Vec::new() })
    }
}

/// Whether a process has a lock on any part of a file.
fn is_locked(file: BorrowedFd<'_>) -> Option<bool> {
    let (l_type, l_whence) = (libc::F_WRLCK as i16, libc::SEEK_SET as i16);
    let mut wanted = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(file, FcntlArg::F_GETLK(&mut wanted)).ok()?;
    Some(wanted.l_type != libc::F_UNLCK as i16)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd as _, AsRawFd as _};
    use std::os::unix::net::UnixStream;

    use super::super::FdFacts;
    use super::super::socket_reading::Sorts;
    use super::*;
    use crate::sys::pidfd;

    fn look(fd: BorrowedFd<'_>) -> Option<FdInfo> {
        Duplicates::new(&FileOptions::default()).unwrap().look(fd, &fstat(fd).unwrap())
    }

    #[test]
    fn duplicates_tell_what_fdinfo_does() {
        let (a, _b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let (stat, info) = (fstat(&a).unwrap(), look(a.as_fd()).unwrap());
        let pid = std::process::id() as i32;
        let pidfd = pidfd::open(pid).unwrap();
        let facts = FdFacts::read(pid, pidfd.as_fd(), a.as_raw_fd(), &Sorts::default()).unwrap();
        assert_eq!((stat, info.pos, info.flags), (facts.stat, facts.info.pos, facts.flags()));
        assert_eq!(facts.link, format!("socket:[{}]", stat.st_ino).into_bytes());
    }

    #[test]
    fn others_are_left_to_fdinfo() {
        assert!(look(tempfile::tempfile().unwrap().as_fd()).is_none());
        assert!(look(File::open("/dev/null").unwrap().as_fd()).is_none());
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert!(look(reader.as_fd()).is_none());
    }
}
