//! Going into the namespaces of a tree.
//!
//! A tree in namespaces of its own is dumped and restored from within: a process of ours enters its pid, mount, network,
//! ipc, uts, time and cgroup namespaces, and works there as it would at home. So a pid is one number, a path leads to what it
//! leads to for the tasks, a socket is in the right network, a clock shows the right time. Of a user namespace it stays
//! outside, which keeps its privileges: ids that it sees are those outside.
//!
//! The command stays where it was, and waits. It is needed to end a tree, too: nobody inside of a pid namespace can kill its
//! init, and when that is killed, whoever is inside dies with it.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use crate::dump::inspect::read_proc;
use crate::dump::target::until_seen;
use crate::error::{Class, Context as _, Explain, Problem, SysError, TaskName};
use crate::kinds::namespaces::user;
use crate::last_pids;
use crate::options::{DumpOptions, Inside};
use crate::procfs;
use crate::procfs::id_map::{self, IdMaps};
use crate::procfs::link::NamespaceType;
use crate::sys::process::{self, Waited};
use crate::sys::{namespace, pidfd};

/// Why we cannot work inside.
#[derive(Debug, thiserror::Error)]
pub enum InsideRefusal {
    /// The root of the tree is not the init of its pid namespace.
    #[error("it has pid {0} in its pid namespace; only a tree from the init on (pid 1) can be dumped")]
    NotInit(i32),
    /// What we would read of its tasks is not there.
    #[error("no procfs of its pid namespace is mounted at /proc in its mount namespace")]
    NoProcfs,
    /// All pids that we tried are taken.
    #[error("no pid is free in its pid namespace")]
    NoPid,
}

impl Explain for InsideRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NotInit(_) => Some(
                "dump the init of its pid namespace, or pass --external pid[INODE]:NAME, and hand it in at restore with \
                 --inherit-fd fd[N]:NAME"
                    .into(),
            ),
            Self::NoProcfs => Some("mount proc at /proc there".into()),
            Self::NoPid => None,
        }
    }
}

/// Types of namespaces in which a process is apart from us. Of what is not to be seen of it nothing is said.
pub fn differing(pid: i32) -> Vec<NamespaceType> {
    let link =
        |pid: &str, kind: &NamespaceType| std::fs::read_link(format!("/proc/{pid}/ns/{}", kind.name())).ok();
    let name = pid.to_string();
    let differs = |kind: &NamespaceType| {
        let theirs = until_seen(pid, || link(&name, kind));
        theirs.is_some_and(|theirs| link("self", kind) != Some(theirs))
    };
    NamespaceType::ALL.into_iter().filter(differs).collect()
}

/// Which process this is.
#[derive(Debug)]
pub enum Side {
    /// The one that works.
    Inside(Box<Inside>),
    /// The one that stayed; the other has ended.
    Outside(Ended),
}

/// How the process inside ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

/// Goes into the namespaces of these types that the root of the tree has for itself. In the process that stays, returns
/// when the other has ended, and the tree, too, if `ends` says so.
pub fn enter_for_dump(options: &DumpOptions, types: Vec<NamespaceType>, ends: bool) -> Result<Side, Problem> {
    let tree = options.tree;
    let root = pidfd::open(tree)?;
    let status = read_proc(format!("/proc/{tree}/status"), procfs::status::parse)?;
    let has_pids = types.contains(&NamespaceType::Pid);
    let inner = status.ns_tgid.last().copied().unwrap_or(tree);
    let is_external = |kind: &NamespaceType| options.namespaces.external_name(tree, *kind).is_some();
    let shared: Vec<NamespaceType> = types.iter().copied().filter(is_external).collect();
    if has_pids && inner != 1 && !shared.contains(&NamespaceType::Pid) {
        return Err(Problem::new(InsideRefusal::NotInit(inner)));
    }
    let ids = ids_of(tree, &types)?;
    let outer_net = std::fs::metadata("/proc/self/ns/net").map(|data| data.ino()).ok();
    match enter(&root, &types, &[])? {
        None => Ok(Side::Inside(Box::new(Inside {
            types,
            shared,
            outer_pid: tree,
            inner_pid: inner,
            ids,
            outer_net,
            last_pid: last_pids::here(),
            ..Inside::default()
        }))),
        Some(worker) => {
            let ended = wait(worker)?;
            if ends && has_pids && ended == Ended::Code(0) {
                wait_for_end(&root)?;
            }
            Ok(Side::Outside(ended))
        }
    }
}

/// The ids of the user namespace of a process, if it has one of these types for itself.
pub fn ids_of(pid: i32, types: &[NamespaceType]) -> Result<IdMaps, Problem> {
    if types.contains(&NamespaceType::User) { user::maps(pid) } else { Ok(IdMaps::default()) }
}

/// Forks a process into the namespaces of these types that `root` is in. Returns `None` in it, and its pid in ours.
///
/// `taken` are pids there that it must not have.
pub fn enter(root: &OwnedFd, types: &[NamespaceType], taken: &[i32]) -> Result<Option<i32>, Problem> {
    let step = "go into its namespaces";
    let flags = |kinds: &dyn Fn(NamespaceType) -> bool| {
        types.iter().filter(|kind| kinds(**kind)).fold(0, |all, kind| all | kind.clone_flag())
    };
    let forked = if types.contains(&NamespaceType::Pid) {
        namespace::enter(root, libc::CLONE_NEWPID).while_trying_to(step)?;
        fork_with_high_pid(taken).while_trying_to(step)?
    } else {
        process::fork()?
    };
    if forked.is_some() {
        return Ok(forked);
    }
    // Paths of cgroups are to begin at the true root.
    let apart = [NamespaceType::Pid, NamespaceType::User, NamespaceType::Cgroup];
    let others = flags(&|kind| !apart.contains(&kind));
    if others != 0 {
        namespace::enter(root, others).while_trying_to(step)?;
    }
    if types.contains(&NamespaceType::Pid) || types.contains(&NamespaceType::Mnt) {
        check_procfs()?;
    }
    Ok(None)
}

/// Forks with a pid that is far from those that the kernel gives next, so that nobody notices that it was in use.
fn fork_with_high_pid(taken: &[i32]) -> Result<Option<i32>, Problem> {
    /// Below `PID_MAX_DEFAULT` of `include/linux/threads.h`, which a pid namespace has at least as a rule.
    const HIGHEST: i32 = 0x7fff;
    const TRIES: usize = 64;
    for pid in (2..HIGHEST).rev().filter(|pid| !taken.contains(pid)).take(TRIES) {
        match namespace::fork_with_pid(pid, 0) {
            Err(SysError { errno: Errno::EEXIST, .. }) => {}
            forked => return forked.map_err(Problem::new),
        }
    }
    Err(Problem::new(InsideRefusal::NoPid))
}

/// What we read of tasks must be of their pid namespace, and of nobody who claims to be it.
fn check_procfs() -> Result<(), Problem> {
    let is_procfs = nix::sys::statfs::statfs("/proc")
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC);
    let is_ours =
        std::fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&std::process::id().to_string()));
    if is_procfs && is_ours { Ok(()) } else { Err(Problem::new(InsideRefusal::NoProcfs)) }
}

/// Waits for the end of a child.
pub fn wait(child: i32) -> Result<Ended, Problem> {
    loop {
        match process::wait(child) {
            Ok(Waited::Ended(status)) if libc::WIFEXITED(status) => {
                return Ok(Ended::Code(libc::WEXITSTATUS(status) as u8));
            }
            Ok(Waited::Ended(status)) => return Ok(Ended::Signal(libc::WTERMSIG(status))),
            Ok(_) | Err(SysError { errno: Errno::EINTR, .. }) => {}
            Err(e) => return Err(Problem::new(e)),
        }
    }
}

/// Waits until a process that is being killed has ended.
fn wait_for_end(process: &OwnedFd) -> Result<(), Problem> {
    const LIMIT: Duration = Duration::from_secs(10);
    let limit = PollTimeout::try_from(LIMIT).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    match nix::poll::poll(&mut polled, limit).map_err(SysError::of("poll"))? {
        0 => {
            Err(Problem::new(SysError { call: "poll(pidfd)", errno: Errno::ETIMEDOUT }).step("kill the tree"))
        }
        _ => Ok(()),
    }
}

/// A directory that we can still reach when our root is another.
#[derive(Debug)]
pub struct Kept(OwnedFd);

impl Kept {
    /// Keeps one.
    pub fn open(path: &Path) -> Result<Self, SysError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, Mode::empty()).map(Self).map_err(SysError::of("open"))
    }

    /// A path that leads there wherever we are.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// The mounts of those who called us: programs that we run are to be theirs, for one of a container need not be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// What leads to the mount namespace, wherever we are.
    mounts: PathBuf,
    /// And to the root directory.
    root: PathBuf,
}

impl Home {
    /// Of descriptors of ours, which stay open.
    pub fn new(mounts: &File, root: &Kept) -> Self {
        Self { mounts: PathBuf::from(format!("/proc/self/fd/{}", mounts.as_raw_fd())), root: root.path() }
    }

    /// Goes there, in a fork of ours that does not come back.
    pub fn return_to(&self) -> Result<(), SysError> {
        // Opened while we are here: paths lead elsewhere in a moment.
        let root = Kept::open(&self.root)?;
        let mounts = File::open(&self.mounts).map_err(SysError::io("open"))?;
        nix::sched::setns(mounts, CloneFlags::CLONE_NEWNS).map_err(SysError::of("setns"))?;
        nix::unistd::fchdir(&root.0).map_err(SysError::of("fchdir"))?;
        nix::unistd::chroot(".").map_err(SysError::of("chroot"))
    }
}

/// The procfs of those who called us, which knows the pids that they know.
#[derive(Debug)]
pub struct Outside(Kept);

impl Outside {
    /// To be opened before we go.
    pub fn open() -> Result<Self, SysError> {
        Kept::open(Path::new("/proc")).map(Self)
    }

    /// Where the kernel lists its timers, which a container's own procfs often hides.
    pub fn timer_list(&self) -> PathBuf {
        self.0.path().join("timer_list")
    }

    /// Tunables of the namespaces that whoever opens one is in (proc_sys(5)); a container's own procfs often does not let them be
    /// written.
    pub fn tunables(&self) -> PathBuf {
        self.0.path().join("sys")
    }

    /// Names a task by its pid outside, too.
    pub fn rename(&self, task: &mut TaskName) {
        if task.inner_pid.is_none()
            && let Some(pid) = self.pid_of(task.host_pid)
        {
            (task.host_pid, task.inner_pid) = (pid, Some(task.host_pid));
        }
    }

    /// The pid outside of a process here: what a file of that procfs shows of a descriptor for it (pidfd_open(2)).
    fn pid_of(&self, pid: i32) -> Option<i32> {
        let process = pidfd::open(pid).ok()?;
        let path = self.0.path().join(format!("self/fdinfo/{}", process.as_raw_fd()));
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
    }
}

/// As long as it lives, what we make belongs to the root of a user namespace, and not to ours, who may have no id there.
#[derive(Debug)]
pub struct AsOwner(Option<(u32, u32)>);

impl AsOwner {
    /// Acts for the root of a user namespace, if there is one.
    pub fn of(ids: &IdMaps) -> Result<Self, Problem> {
        if *ids == IdMaps::default() {
            return Ok(Self(None));
        }
        process::keep_capabilities()?;
        let (uid, gid) = (id_map::outside(&ids.uids, 0), id_map::outside(&ids.gids, 0));
        Ok(Self(Some(process::set_file_ids(uid, gid))))
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.0 {
            process::set_file_ids(uid, gid);
        }
    }
}
