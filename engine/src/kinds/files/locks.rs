//! File locks of every sort: POSIX locks, locks of open file descriptions, flock(2) locks, leases (`--file-locks`).
//!
//! The `lock` lines of fdinfo show each lock at the descriptors that hold it: a POSIX lock at those of the process that
//! owns it, all others at every descriptor of the description. A POSIX lock is taken again by its process, and last of
//! all, since closing any descriptor of the file drops it; the others by one holder of the description, where possible
//! the one that the kernel shows. A task that waits for a lock makes its call again by itself.
//!
//! A lease that is being broken shows what it should become, not what it is. It is taken again as what it can have been,
//! and broken again, while nobody is told about it: its owner was told the first time. The time it has left begins anew.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::messages::{FileLockEntry, FownEntry};

use super::{FdFacts, FilesDump, FilesRestore, InTask};
use crate::args;
use crate::dump::inspect::read_proc;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::procfs::locks::{self, Lock, Sort};
use crate::sys::{fcntl, process};
use crate::tracee::batch::{Batch, CallId};

/// Values of `file_lock_entry.flag`.
const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const DESCRIPTION: u32 = 4;
const LEASE: u32 = 8;
/// Set in the type of a lease that is being broken; `start` then holds the type that it has.
const BREAKING: u32 = 16;

/// From `include/uapi/asm-generic/fcntl.h` and `include/uapi/linux/fcntl.h`.
const F_SETLK: i32 = 6;
const F_OFD_SETLK: i32 = 37;
const F_SETLEASE: i32 = 1024;

const NO_TASK: &str = "a lock belongs to no task";

/// Why a lock cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum LockRefusal {
    /// Nobody asked for it.
    #[error("it holds a file lock ({0})")]
    NotAsked(String),
    /// Somebody outside of the tree has the same description.
    #[error("process {pid}, which is outside of the tree, holds its file lock, too ({lock})")]
    HeldOutside {
        /// Who.
        pid: i32,
        /// What.
        lock: String,
    },
    /// Somebody has taken a lock since.
    #[error("its file lock cannot be taken again, because {0} has one now")]
    Taken(String),
}

impl Explain for LockRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            Self::NotAsked(_) => "pass --file-locks, or release the lock first",
            Self::HeldOutside { .. } => "dump that process as well, or release the lock first",
            Self::Taken(_) => "end that process, or have it release the lock",
        };
        Some(text.to_owned())
    }
}

/// A lock, and where it was seen.
#[derive(Debug)]
struct Held {
    id: u32,
    lock: Lock,
    text: String,
    object: Object,
    inode: (u64, u64),
    /// What a lease is that is being broken.
    broken_from: i32,
    /// Tasks that hold it, with their numbers.
    holders: Vec<(i32, i32)>,
}

/// Locks of a tree that is being dumped.
#[derive(Debug, Default)]
struct Dumped {
    held: Vec<Held>,
}

/// Notes the locks of a descriptor, which is file `id`.
pub(super) fn note(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<(), Problem> {
    let asked = cx.options.files.file_locks;
    let dumped = cx.state::<Dumped>();
    for line in fd.info.values("lock") {
        let text = String::from_utf8_lossy(line).split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        if !asked {
            return Err(Problem::new(LockRefusal::NotAsked(text)));
        }
        let lock = locks::parse_line(line)?;
        let holder = (fd.pid, fd.fd);
        let known = dumped.held.iter_mut().find(|held| {
            let same = held.id == id && held.lock == lock;
            same && (lock.sort != Sort::Posix || held.holders.iter().any(|(pid, _)| *pid == fd.pid))
        });
        if let Some(held) = known {
            held.holders.push(holder);
            continue;
        }
        let reads = fd.flags() & libc::O_ACCMODE == libc::O_RDONLY;
        let broken_from =
            if lock.lock_type == libc::F_UNLCK && reads { libc::F_RDLCK } else { libc::F_WRLCK };
        let inode = (fd.stat.st_dev, fd.stat.st_ino);
        dumped.held.push(Held {
            id,
            lock,
            text,
            object: fd.object(),
            inode,
            broken_from,
            holders: vec![holder],
        });
    }
    Ok(())
}

/// Refuses locks of descriptions that somebody outside of the tree has, too: they would still be held at restore.
pub(super) fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
    let members = cx.members.clone();
    let dumped = cx.state::<Dumped>();
    let shared: Vec<&Held> = dumped.held.iter().filter(|held| held.lock.sort != Sort::Posix).collect();
    if shared.is_empty() {
        return;
    }
    for pid in processes().into_iter().filter(|pid| !members.contains(pid)) {
        for fd in super::list(pid) {
            let Ok(stat) = nix::sys::stat::stat(format!("/proc/{pid}/fd/{fd}").as_str()) else { continue };
            for held in shared.iter().filter(|held| held.inode == (stat.st_dev, stat.st_ino)) {
                let is_same = held.holders.first().is_some_and(|holder| {
                    process::kcmp_file((pid, fd), *holder).is_ok_and(std::cmp::Ordering::is_eq)
                });
                if is_same {
                    let refusal = LockRefusal::HeldOutside { pid, lock: held.text.clone() };
                    problems.push(Problem::new(refusal).object(held.object.clone()));
                }
            }
        }
    }
}

/// All processes but ourselves.
fn processes() -> Vec<i32> {
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own).collect()
}

/// Writes `filelocks.img`.
pub(super) fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let held = std::mem::take(&mut cx.state::<Dumped>().held);
    let entries: Vec<FileLockEntry> = held.iter().map(Held::describe).collect();
    if entries.is_empty() { Ok(()) } else { images.write(&proto::catalogue::FILE_LOCKS, 0, &entries) }
}

impl Held {
    fn describe(&self) -> FileLockEntry {
        let taker = self.holders.iter().find(|(pid, _)| *pid == self.lock.pid);
        let (pid, fd) = taker.or(self.holders.first()).copied().unwrap_or_default();
        let mut entry =
            FileLockEntry { flag: 0, r#type: self.lock.lock_type as u32, pid, fd, start: 0, len: 0 };
        entry.flag = match self.lock.sort {
            Sort::Posix => POSIX,
            Sort::Description => DESCRIPTION,
            Sort::Flock => FLOCK,
            Sort::Lease | Sort::BreakingLease => LEASE,
        };
        match self.lock.sort {
            Sort::Posix | Sort::Description => {
                entry.start = self.lock.start as i64;
                entry.len = self.lock.end.map_or(0, |end| (end - self.lock.start + 1) as i64);
            }
            Sort::BreakingLease => {
                entry.r#type |= BREAKING;
                entry.start = self.broken_from.into();
            }
            Sort::Flock | Sort::Lease => {}
        }
        entry
    }
}

fn read(cx: &FilesRestore<'_>) -> Result<Vec<FileLockEntry>, Problem> {
    let image = &proto::catalogue::FILE_LOCKS;
    if cx.images.has(image, 0) { cx.images.read(image, 0) } else { Ok(Vec::new()) }
}

fn object(entry: &FileLockEntry) -> Object {
    Object::Named { kind: "file lock", name: format!("of process {}, fd {}", entry.pid, entry.fd) }
}

/// Finds locks that somebody else has taken since. `name` gives the path of a descriptor of a task.
pub(super) fn check(
    cx: &FilesRestore<'_>,
    name: &dyn Fn(i32, i32) -> Option<String>,
    problems: &mut Vec<Problem>,
) {
    let entries = match read(cx) {
        Ok(entries) => entries,
        Err(problem) => return problems.push(problem),
    };
    if entries.is_empty() {
        return;
    }
    let held = read_proc("/proc/locks".into(), |text| Ok(locks::held(text))).unwrap_or_default();
    for entry in &entries {
        let Some(wanted) = wanted(entry) else {
            problems.push(invalid(&proto::catalogue::FILE_LOCKS, 0, "a lock is of an unknown sort"));
            continue;
        };
        let stat = name(entry.pid, entry.fd).and_then(|path| nix::sys::stat::stat(path.as_str()).ok());
        let Some(stat) = stat else { continue };
        let device = (libc::major(stat.st_dev), libc::minor(stat.st_dev));
        let other = held
            .iter()
            .find(|lock| lock.device == device && lock.inode == stat.st_ino && lock.conflicts(&wanted));
        if let Some(other) = other {
            problems.push(Problem::new(LockRefusal::Taken(holder(other.pid))).object(object(entry)));
        }
    }
}

fn holder(pid: i32) -> String {
    let name = crate::tracee::freeze::task_name(pid);
    name.map_or_else(|| "another process".to_owned(), |name| name.to_string())
}

/// The lock that an entry describes; none if its sort is unknown.
fn wanted(entry: &FileLockEntry) -> Option<Lock> {
    let sort = match entry.flag {
        POSIX => Sort::Posix,
        FLOCK => Sort::Flock,
        DESCRIPTION => Sort::Description,
        LEASE if entry.r#type & BREAKING != 0 => Sort::BreakingLease,
        LEASE => Sort::Lease,
        _ => return None,
    };
    let start = u64::try_from(entry.start).ok()?;
    let len = u64::try_from(entry.len).ok()?;
    let end = if len == 0 { None } else { Some(start.checked_add(len - 1)?) };
    let lock_type = (entry.r#type & !BREAKING) as i32;
    Some(Lock { sort, lock_type, pid: entry.pid, device: (0, 0), inode: 0, start, end })
}

/// Takes all locks again, when every descriptor is in its place.
pub(super) fn restore(cx: &FilesRestore<'_>, tasks: &mut dyn InTask) -> Result<(), Problem> {
    let entries = read(cx)?;
    let (leases, locks): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.flag == LEASE);
    let pids: BTreeSet<i32> = locks.iter().map(|lock| lock.pid).collect();
    for pid in pids {
        let own: Vec<&FileLockEntry> = locks.iter().filter(|lock| lock.pid == pid).collect();
        // A lock takes 32 bytes besides its call.
        for own in own.chunks(64) {
            take(own, pid, tasks)?;
        }
    }
    leases.iter().try_for_each(|lease| take_lease(cx, lease, tasks).map_err(|p| p.object(object(lease))))
}

fn take(locks: &[&FileLockEntry], pid: i32, tasks: &mut dyn InTask) -> Result<(), Problem> {
    let mut calls: Vec<CallId> = Vec::new();
    let replies = tasks.run_in(pid, &mut |_spare, batch| {
        calls = locks.iter().map(|lock| add_lock(lock, batch)).collect();
    })?;
    let Some(replies) = replies else { return Err(invalid(&proto::catalogue::FILE_LOCKS, 0, NO_TASK)) };
    for (lock, call) in locks.iter().zip(calls) {
        match replies.result(call) {
            Ok(_) => {}
            Err(SysError { errno: Errno::EAGAIN | Errno::EACCES, .. }) => {
                return Err(Problem::new(LockRefusal::Taken("another process".into())).object(object(lock)));
            }
            Err(e) => return Err(Problem::new(e).object(object(lock)).step("take its file lock")),
        }
    }
    Ok(())
}

fn add_lock(lock: &FileLockEntry, batch: &mut Batch<'_>) -> CallId {
    if lock.flag == FLOCK {
        let operation = if lock.r#type == libc::F_WRLCK as u32 { libc::LOCK_EX } else { libc::LOCK_SH };
        return batch.try_call("flock", libc::SYS_flock, args![lock.fd, operation | libc::LOCK_NB]);
    }
    let (command, name) =
        if lock.flag == POSIX { (F_SETLK, "fcntl(F_SETLK)") } else { (F_OFD_SETLK, "fcntl(F_OFD_SETLK)") };
    // struct flock: type and whence, 16 bits each and padded; start; length; pid, padded.
    let flock = batch.input(&[u64::from(lock.r#type), lock.start as u64, lock.len as u64, 0]);
    batch.try_call(name, libc::SYS_fcntl, args![lock.fd, command, flock])
}

/// Takes a lease, and breaks it again where it was being broken.
fn take_lease(cx: &FilesRestore<'_>, lease: &FileLockEntry, tasks: &mut dyn InTask) -> Result<(), Problem> {
    let target = (lease.r#type & !BREAKING) as i32;
    let is_breaking = lease.r#type & BREAKING != 0;
    let held = if is_breaking { lease.start as i32 } else { target };
    tasks.run_in(lease.pid, &mut |_spare, batch| {
        batch.call("fcntl(F_SETLEASE)", libc::SYS_fcntl, args![lease.fd, F_SETLEASE, held]);
    })?;
    let Some(id) = tasks.file_of(lease.pid, lease.fd) else { return Ok(()) };
    let Some(file) = cx.opened(id) else { return Ok(()) };
    // Taking a lease makes the taker the owner.
    fcntl::clear_owner(file)?;
    if is_breaking {
        let access = if target == libc::F_RDLCK { OFlag::O_RDONLY } else { OFlag::O_WRONLY };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened =
            nix::fcntl::open(path.as_str(), access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
        match opened {
            Err(Errno::EAGAIN) => {}
            Ok(_) => {
                let e = SysError { call: "open", errno: Errno::EALREADY };
                return Err(Problem::new(e).step("break its lease again"));
            }
            Err(errno) => {
                return Err(SysError { call: "open", errno }).while_trying_to("break its lease again");
            }
        }
    }
    let owner = cx.regular(id).map_or_else(|_| FownEntry::default(), |reg| reg.fown);
    super::description::set_owner(file, &owner)
}
