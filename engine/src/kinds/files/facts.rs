//! What is known about one descriptor of a stopped task, read once: its link, its inode, its fdinfo.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlink, readlinkat};
use nix::sys::stat::Mode;
use proto::messages::FownEntry;

use super::FileRefusal;
use super::duplicate::Duplicates;
use super::socket_reading::{Answers, Sorts};
use crate::dump::inspect::{TaskFacts, read_opened};
use crate::dump::places::Descriptor;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::options::FileOptions;
use crate::procfs::fdinfo::FdInfo;
use crate::procfs::{self, link};
use crate::side_by_side;
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
    /// What it answered, if it is a unix or internet socket.
    answers: Option<Box<Answers>>,
    /// Whether the descriptor is closed by execve; none if that was not looked at, and the task must be asked.
    pub cloexec: Option<bool>,
    /// Whether its link was found to lead to it.
    pub leads: bool,
    /// Where its description is, if that was seen, and nothing but that decides what is known about it: nobody has a lock
    /// on it that belongs to a descriptor table.
    pub place: Option<u64>,
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

/// The descriptor numbers of a task, in order.
pub fn list(pid: i32) -> Vec<i32> {
    Infos::open(pid).map(|infos| infos.list()).unwrap_or_default()
}

/// `/proc/PID/fdinfo`: this is where each is looked for, and who lists makes them.
#[derive(Debug)]
struct Infos(File);

impl Infos {
    fn open(pid: i32) -> Result<Self, Problem> {
        let path = format!("/proc/{pid}/fdinfo");
        let opened = File::open(&path).map_err(SysError::io("open"));
        Ok(Self(opened.about(|| Object::Path(path.into()))?))
    }

    /// The numbers, in order.
    fn list(&self) -> Vec<i32> {
        let folder = self.0.try_clone().map(OwnedFd::from).ok().and_then(|fd| Dir::from_fd(fd).ok());
        let entries = folder.into_iter().flatten();
        let mut fds: Vec<i32> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()).collect();
        fds.sort_unstable();
        fds
    }
}

/// A table of fewer descriptors is read by one thread, while others read others. Of fewer it takes less time, too, to read
/// fdinfo than to ask the task what is not known otherwise.
const MANY: usize = 32;

/// What is known of a descriptor when it is its turn.
#[derive(Debug)]
pub(super) enum Seen<'a> {
    /// It was read.
    Read(Box<Result<FdFacts<'a>, Problem>>),
    /// Its description is one of those that were read before.
    Again(Descriptor),
}

impl<'a> Seen<'a> {
    fn new(read: Result<FdFacts<'a>, Problem>) -> Self {
        Self::Read(Box::new(read))
    }
}

/// A table as far as it was read: its numbers, and its descriptors if they are few.
#[derive(Debug)]
pub struct Table<'a> {
    fds: Vec<i32>,
    read: Option<Vec<Seen<'a>>>,
}

impl<'a> Table<'a> {
    fn of(turn: &Turn<'a>, sorts: &Sorts) -> Self {
        let Turn { task, descriptors } = turn;
        let source = || TableSource::open(task.pid, task.pidfd.as_fd(), sorts);
        if let Some(descriptors) = descriptors
            && let Some(read) = read_new(descriptors, source)
        {
            return Self {
                fds: descriptors.iter().map(|(descriptor, _)| descriptor.fd).collect(),
                read: Some(read),
            };
        }
        // Whoever is to read more of it will find out why it cannot be opened.
        let Ok(source) = source() else { return Self { fds: Vec::new(), read: None } };
        let fds = source.infos.list();
        let read =
            (fds.len() < MANY).then(|| fds.iter().map(|fd| Seen::new(source.read(*fd, None))).collect());
        Self { fds, read }
    }

    /// Hands its descriptors to `take` in their order; those that are still to be read are read side by side.
    pub(super) fn read(
        self,
        options: &FileOptions,
        sorts: &Sorts,
        task: &'a TaskFacts,
        mut take: impl FnMut(Seen<'_>),
    ) -> Result<(), Problem> {
        if let Some(read) = self.read {
            read.into_iter().for_each(take);
            return Ok(());
        }
        let source = TableSource::open(task.pid, task.pidfd.as_fd(), sorts)?;
        let duplicates = (self.fds.len() >= MANY).then(|| Duplicates::new(options)).flatten();
        let read = |fd: &i32| source.read(*fd, duplicates.as_ref());
        side_by_side::in_order(&self.fds, read, |read| take(Seen::new(read)));
        Ok(())
    }

    /// How many descriptors it has.
    pub(super) fn len(&self) -> usize {
        self.fds.len()
    }
}

/// Reads those descriptors that are new; none where the table cannot be opened.
fn read_new<'a, 's>(
    descriptors: &[(Descriptor, IsNew)],
    source: impl FnOnce() -> Result<TableSource<'a, 's>, Problem>,
) -> Option<Vec<Seen<'a>>> {
    let source = descriptors.iter().any(|(_, new)| *new).then(source).transpose().ok()?;
    let read = |(descriptor, new): &(Descriptor, IsNew)| match &source {
        Some(source) if *new => {
            Seen::new(source.read(descriptor.fd, None).map(|facts| facts.placed(descriptor.file)))
        }
        _ => Seen::Again(*descriptor),
    };
    Some(descriptors.iter().map(read).collect())
}

/// Whether no task before has a description.
type IsNew = bool;

/// A task whose table is to be read.
#[derive(Debug)]
struct Turn<'a> {
    task: &'a TaskFacts,
    /// Its descriptors, where they were seen.
    descriptors: Option<Vec<(Descriptor, IsNew)>>,
}

impl<'a> Turn<'a> {
    fn of(task: &'a TaskFacts, met: &mut HashSet<u64>) -> Self {
        let descriptors = task.places.as_ref().and_then(|places| places.descriptors());
        let descriptors = descriptors.map(|all| all.map(|one| (one, met.insert(one.file))).collect());
        Self { task, descriptors }
    }
}

/// The tables of all tasks, some of which are read ahead.
#[derive(Debug)]
pub struct Tables<'a> {
    left: std::slice::Iter<'a, Option<TaskFacts>>,
    /// Descriptions that tasks before have.
    met: HashSet<u64>,
    ahead: std::vec::IntoIter<Table<'a>>,
}

impl<'a> Tables<'a> {
    /// Of these tasks; none is read.
    pub fn of(tasks: &'a [Option<TaskFacts>]) -> Self {
        Self { left: tasks.iter(), met: HashSet::new(), ahead: Vec::new().into_iter() }
    }

    /// The table of the next task that there are facts of.
    pub(super) fn next(&mut self, sorts: &Sorts) -> Option<Table<'a>> {
        /// Tasks whose tables are read at a time: we hold a duplicate of each descriptor meanwhile.
        const AT_ONCE: usize = 64;
        if self.ahead.len() == 0 {
            let tasks = self.left.by_ref().flatten().take(AT_ONCE);
            let turns: Vec<Turn<'_>> = tasks.map(|task| Turn::of(task, &mut self.met)).collect();
            self.ahead = side_by_side::map(&turns, |turn| Table::of(turn, sorts)).into_iter();
        }
        self.ahead.next()
    }
}

/// Where a descriptor table is read.
#[derive(Debug)]
struct TableSource<'a, 's> {
    pid: i32,
    pidfd: BorrowedFd<'a>,
    infos: Infos,
    sorts: &'s Sorts,
}

impl<'a, 's> TableSource<'a, 's> {
    fn open(pid: i32, pidfd: BorrowedFd<'a>, sorts: &'s Sorts) -> Result<Self, Problem> {
        Ok(Self { pid, pidfd, infos: Infos::open(pid)?, sorts })
    }

    fn read(&self, fd: i32, duplicates: Option<&Duplicates>) -> Result<FdFacts<'a>, Problem> {
        let Ok(dup) = pidfd::getfd(self.pidfd, fd) else { return self.read_without_duplicate(fd) };
        // A duplicate is looked at in less time than it takes to find the file in /proc.
        let stat = nix::sys::stat::fstat(&dup).map_err(SysError::of("fstat"))?;
        if let Some(info) = duplicates.and_then(|duplicates| duplicates.look(dup.as_fd(), &stat)) {
            let link = format!("socket:[{}]", stat.st_ino).into_bytes();
            return FdFacts { cloexec: None, ..self.facts(fd, link, stat, info, dup.into()) }
                .asked(self.sorts);
        }
        // A link to a duplicate says the same, and the kernel has made it before for others of its number.
        let link = readlinkat(self.sorts.links()?, dup.as_raw_fd().to_string().as_str());
        let link = link.map_err(SysError::of("readlink"))?.into_vec();
        let info = self.info(fd).map_err(|p| p.object(Object::Fd { fd, link: lossy(&link) }))?;
        // Of other files it is found out by those few who want to know.
        let leads = stat.st_mode & libc::S_IFMT == libc::S_IFREG
            && link.starts_with(b"/")
            && nix::sys::stat::lstat(OsStr::from_bytes(&link))
                .is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino));
        FdFacts { leads, ..self.facts(fd, link, stat, info, dup.into()) }.asked(self.sorts)
    }

    fn read_without_duplicate(&self, fd: i32) -> Result<FdFacts<'a>, Problem> {
        let path = format!("/proc/{}/fd/{fd}", self.pid);
        let link = readlink(path.as_str()).map_err(SysError::of("readlink"))?.into_vec();
        let object = || Object::Fd { fd, link: lossy(&link) };
        let stat = nix::sys::stat::stat(path.as_str()).map_err(SysError::of("stat")).about(object)?;
        let info = self.info(fd).map_err(|p| p.object(object()))?;
        self.facts(fd, link, stat, info, OnceCell::new()).asked(self.sorts)
    }

    fn info(&self, fd: i32) -> Result<FdInfo, Problem> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.infos.0, fd.to_string().as_str(), flags, Mode::empty());
        let file = File::from(file.map_err(SysError::of("open"))?);
        read_opened(file, || format!("/proc/{}/fdinfo/{fd}", self.pid), procfs::fdinfo::parse)
    }

    fn facts(
        &self,
        fd: i32,
        link: Vec<u8>,
        stat: libc::stat,
        info: FdInfo,
        dup: OnceCell<OwnedFd>,
    ) -> FdFacts<'a> {
        FdFacts {
            pid: self.pid,
            fd,
            link,
            stat,
            socket: None,
            answers: None,
            cloexec: Some(info.flags & libc::O_CLOEXEC != 0),
            info,
            leads: false,
            place: None,
            owner: Ok(FownEntry::default()),
            pidfd: self.pidfd,
            dup,
        }
    }
}

impl<'a> FdFacts<'a> {
    /// Reads one descriptor.
    pub fn read(pid: i32, pidfd: BorrowedFd<'a>, fd: i32, sorts: &Sorts) -> Result<Self, Problem> {
        TableSource::open(pid, pidfd, sorts)?.read(fd, None)
    }

    /// The same with where its description is.
    fn placed(self, file: u64) -> Self {
        // Of locks that belong to tables, fdinfo shows those of one table.
        let of_tables = || self.dup().map_or(true, fcntl::may_have_lock);
        let has_locks = self.info.values("lock").next().is_some() || !self.is_path_only() && of_tables();
        Self { place: (!has_locks).then_some(file), ..self }
    }

    /// With what the description itself is asked.
    fn asked(mut self, sorts: &Sorts) -> Result<Self, Problem> {
        if !self.is_path_only() {
            self.owner = fcntl::owner(self.dup().map_err(|e| Problem::new(e).object(self.object()))?);
        }
        if !self.is_path_only() && self.file_type() == libc::S_IFSOCK {
            let facts = self.read_socket().map_err(|e| Problem::new(e).object(self.object()))?;
            self.socket = Some(facts);
            self.answers = self.dup().ok().and_then(|fd| Answers::of(fd, facts, sorts)).map(Box::new);
        }
        Ok(self)
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
        Object::Fd { fd: self.fd, link: lossy(&self.link) }
    }

    /// Flags of the description, without the descriptor's own close-on-exec.
    pub fn flags(&self) -> i32 {
        self.info.flags & !libc::O_CLOEXEC
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

    /// What it answered, of a unix or internet socket.
    pub fn answers(&self) -> Result<&Answers, Problem> {
        self.answers.as_deref().ok_or_else(|| Problem::new(FileRefusal::NoKind))
    }

    /// Who gets its signals (`F_SETOWN_EX`, `F_SETSIG`).
    pub fn owner(&self) -> Result<FownEntry, SysError> {
        self.owner
    }
}

fn lossy(link: &[u8]) -> String {
    String::from_utf8_lossy(link).into_owned()
}
