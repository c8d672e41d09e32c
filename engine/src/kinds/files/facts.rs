//! What is known about one descriptor of a stopped task, read once: its link, its inode, its fdinfo.

use std::cell::OnceCell;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use proto::messages::FownEntry;

use crate::dump::inspect::read_single;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::procfs::fdinfo::FdInfo;
use crate::procfs::{self, link};
use crate::sys::{fcntl, pidfd, socket};

/// What is known about one descriptor of a stopped task.
#[derive(Debug)]
pub struct FdFacts<'a> {
    /// The task's pid in our pid namespace.
    pub pid: i32,
    /// Its number.
    pub fd: i32,
    /// The text of `/proc/PID/fd/N`.
    pub link: Vec<u8>,
    /// `stat(2)` of what it refers to.
    pub stat: libc::stat,
    /// `/proc/PID/fdinfo/N`.
    pub info: FdInfo,
    /// What kind of socket it is, if it is one.
    pub socket: Option<SocketFacts>,
    owner: Result<FownEntry, SysError>,
    pidfd: BorrowedFd<'a>,
    dup: OnceCell<OwnedFd>,
}

/// Family, type and protocol of a socket, as socket(2) takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFacts {
    /// `AF_UNIX`, `AF_INET`, …
    pub domain: i32,
    /// `SOCK_STREAM`, `SOCK_DGRAM`, …
    pub kind: i32,
    /// `IPPROTO_TCP`, …
    pub protocol: i32,
}

impl<'a> FdFacts<'a> {
    /// Reads one descriptor.
    pub fn read(pid: i32, pidfd: BorrowedFd<'a>, fd: i32) -> Result<Self, Problem> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let link = nix::fcntl::readlink(path.as_str()).map_err(SysError::of("readlink"))?;
        let link = std::os::unix::ffi::OsStringExt::into_vec(link);
        let object = || Object::Fd { fd, link: String::from_utf8_lossy(&link).into_owned() };
        // A duplicate is looked at in less time than it takes to find the file in /proc.
        let dup = pidfd::getfd(pidfd, fd).ok();
        let stat = match &dup {
            Some(dup) => nix::sys::stat::fstat(dup),
            None => nix::sys::stat::stat(path.as_str()),
        };
        let stat = stat.map_err(SysError::of("stat")).about(object)?;
        let info = read_single(&format!("/proc/{pid}/fdinfo/{fd}"), procfs::fdinfo::parse)
            .map_err(|p| p.object(object()))?;
        let dup = dup.map_or_else(OnceCell::new, OnceCell::from);
        let owner = Ok(FownEntry::default());
        let mut facts = Self { pid, fd, link, stat, info, socket: None, owner, pidfd, dup };
        if !facts.is_path_only() {
            facts.owner = fcntl::owner(facts.dup().map_err(|e| Problem::new(e).object(facts.object()))?);
        }
        if matches!(facts.link(), link::Link::Socket(_)) && !facts.is_path_only() {
            facts.socket = Some(facts.read_socket().map_err(|e| Problem::new(e).object(facts.object()))?);
        }
        Ok(facts)
    }

    fn read_socket(&self) -> Result<SocketFacts, SysError> {
        let socket = self.dup()?;
        let number = |name| socket::get_number(socket, libc::SOL_SOCKET, name);
        Ok(SocketFacts {
            domain: number(libc::SO_DOMAIN)?,
            kind: number(libc::SO_TYPE)?,
            protocol: number(libc::SO_PROTOCOL)?,
        })
    }

    /// What the link says it is.
    pub fn link(&self) -> link::Link<'_> {
        link::parse(&self.link)
    }

    /// How messages name it.
    pub fn object(&self) -> Object {
        Object::Fd { fd: self.fd, link: String::from_utf8_lossy(&self.link).into_owned() }
    }

    /// Flags of the description, without the descriptor's own close-on-exec.
    pub fn flags(&self) -> i32 {
        self.info.flags & !libc::O_CLOEXEC
    }

    /// Whether the descriptor is closed by execve.
    pub fn is_cloexec(&self) -> bool {
        self.info.flags & libc::O_CLOEXEC != 0
    }

    /// Whether it was opened with `O_PATH`.
    pub fn is_path_only(&self) -> bool {
        self.info.flags & libc::O_PATH != 0
    }

    /// The file type bits of its mode.
    pub fn file_type(&self) -> u32 {
        self.stat.st_mode & libc::S_IFMT
    }

    /// A duplicate of our own: the same description.
    pub fn dup(&self) -> Result<BorrowedFd<'_>, SysError> {
        if self.dup.get().is_none() {
            let fd = pidfd::getfd(self.pidfd, self.fd)?;
            // Nobody else sets it: the cell is ours, and single-threaded.
            let _already_set = self.dup.set(fd);
        }
        self.dup.get().map(|fd| fd.as_fd()).ok_or(SysError { call: "pidfd_getfd", errno: Errno::EBADF })
    }

    /// Who gets its signals (`F_SETOWN_EX`, `F_SETSIG`).
    pub fn owner(&self) -> Result<FownEntry, SysError> {
        self.owner
    }
}
