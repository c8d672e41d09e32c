//! Descriptors of processes and threads: `anon_inode:[pidfd]`, with the pid in fdinfo, -1 when it was reaped.
//!
//! One of a task of the tree is opened again when all stubs, which have the right pids, and their threads are there. For
//! one of a process that is gone, a process is made that ends at once; since Linux 6.9 all descriptors of a process have
//! its inode number, so those of one process are of one process again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};

use proto::catalogue::PSTREE;
use proto::messages::{FdTypes, FileEntry, PidfdEntry, PstreeEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::dump::inspect::read_proc;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::procfs;
use crate::procfs::link::Link;
use crate::procfs::status::Status;
use crate::sys::{pidfd, process};

/// Descriptors of processes and threads.
#[derive(Debug)]
pub struct Pidfd;

/// Why one cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum PidfdRefusal {
    /// It leads out of the tree.
    #[error("it refers to {}, which is outside of the tree", Process(*.0))]
    Outside(i32),
    /// The images have no such task.
    #[error("it refers to process {0}, which the images do not have")]
    NoSuchTask(i32),
}

/// A process outside, which has no number if it is not in our pid namespace.
struct Process(i32);

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, crate::tracee::freeze::task_name(self.0)) {
            (0, _) => write!(f, "a process in another pid namespace"),
            (_, Some(name)) => write!(f, "{name}"),
            (pid, None) => write!(f, "process {pid}"),
        }
    }
}

impl Explain for PidfdRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Outside(_) => {
                Some("dump a tree that has both processes, or close the descriptor first".into())
            }
            Self::NoSuchTask(_) => None,
        }
    }
}

/// Processes that must turn out to be of the tree, each with what says so.
#[derive(Debug, Default)]
struct Expected(Vec<(i32, Object)>);

/// Descriptors of processes that are gone, by the inode number that they had in common, and their flags.
#[derive(Debug, Default)]
struct Gone(BTreeMap<(u32, u32), Vec<OwnedFd>>);

/// Flags of `pidfd_open(2)`; `O_EXCL` is `PIDFD_THREAD` (`include/uapi/linux/pidfd.h`).
const OPEN_FLAGS: u32 = (libc::O_NONBLOCK | libc::O_EXCL) as u32;

/// What fdinfo says instead of a pid when the process is gone.
const REAPED: i32 = -1;

impl FileKind for Pidfd {
    const NAME: &'static str = "pidfd";
    const NOT_SAVED: &'static [&'static str] = &[
        "of a process that is gone: how it ended (PIDFD_GET_INFO), and its inode number",
        "on kernels before 6.9, whether descriptors of processes that are gone are of the same one",
    ];
    const TYPE: FdTypes = FdTypes::Pidfd;
    type Image = PidfdEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"pidfd")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<PidfdEntry>> {
        &mut entry.pidfd
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<PidfdEntry, Problem> {
        let step = "read which process it is of";
        let pid: i32 = fd.info.decimal("Pid").while_trying_to(step)?;
        match pid {
            REAPED => {}
            0 => return Err(Problem::new(PidfdRefusal::Outside(0))),
            _ => cx.state::<Expected>().0.push((pid, fd.object())),
        }
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        Ok(PidfdEntry { id, ino: fd.stat.st_ino as u32, flags: fd.flags() as u32, nspid: pid, fown })
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        let expected = std::mem::take(&mut cx.state::<Expected>().0);
        let tree: BTreeSet<i32> = cx.tasks().iter().map(|task| task.name.host_pid).collect();
        let outside = expected.into_iter().filter(|(pid, _)| !is_below(*pid, &tree));
        problems.extend(outside.map(|(pid, object)| Problem::new(PidfdRefusal::Outside(pid)).object(object)));
    }

    fn check(cx: &FilesRestore<'_>, image: &PidfdEntry) -> Result<(), Problem> {
        let tree: Vec<PstreeEntry> = cx.images.read(&PSTREE, 0)?;
        let known = tree.iter().flat_map(|task| &task.threads).any(|tid| *tid as i32 == image.nspid);
        if known || image.nspid == REAPED {
            return Ok(());
        }
        Err(Problem::new(PidfdRefusal::NoSuchTask(image.nspid)).object(object()))
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &PidfdEntry) -> Result<OwnedFd, Problem> {
        let opened = if image.nspid == REAPED {
            open_gone(cx, image)
        } else {
            pidfd::open_with(image.nspid, image.flags & OPEN_FLAGS).map_err(Problem::new)
        };
        let fd = opened.about(object)?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        Ok(fd)
    }
}

fn object() -> Object {
    Object::Named { kind: "file", name: "anon_inode:[pidfd]".into() }
}

/// Whether a process or thread is one of these tasks, or a descendant: then it is frozen with them.
fn is_below(pid: i32, tree: &BTreeSet<i32>) -> bool {
    let mut at = pid;
    // An endless loop would need a process that is its own ancestor.
    while at > 0 {
        let Ok(status) = read_proc::<Status>(format!("/proc/{at}/status"), procfs::status::parse) else {
            return false;
        };
        if tree.contains(&status.tgid) {
            return true;
        }
        at = status.ppid;
    }
    false
}

/// A descriptor of a process that is gone: one for each that the images have of it is made before it goes.
fn open_gone(cx: &mut FilesRestore<'_>, image: &PidfdEntry) -> Result<OwnedFd, Problem> {
    let key = |image: &PidfdEntry| (image.ino, image.flags & OPEN_FLAGS);
    if !cx.state::<Gone>().0.contains_key(&key(image)) {
        let of_same = |other: &PidfdEntry| other.nspid == REAPED && other.ino == image.ino;
        let all: Vec<PidfdEntry> = cx.images_of::<Pidfd>().into_iter().filter(of_same).collect();
        let (here, there) = nix::unistd::pipe().map_err(SysError::of("pipe"))?;
        let Some(pid) = process::fork()? else { process::wait_to_be_taken(&here, &there) };
        let opened: Result<Vec<_>, SysError> =
            all.iter().map(|one| Ok((key(one), pidfd::open_with(pid, one.flags & OPEN_FLAGS)?))).collect();
        drop(there);
        process::wait(pid)?;
        for (key, fd) in opened? {
            cx.state::<Gone>().0.entry(key).or_default().push(fd);
        }
    }
    let gone = cx.state::<Gone>().0.get_mut(&key(image)).and_then(Vec::pop);
    gone.ok_or_else(|| Problem::new(PidfdRefusal::NoSuchTask(image.nspid)))
}
