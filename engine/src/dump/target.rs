//! Whether a process can be dumped at all, found out before it is touched.

use crate::dump::inspect::read_proc;
use crate::error::{Class, Explain, Problem, SysError, TaskName};
use crate::options::DumpOptions;
use crate::procfs;
use crate::procfs::link::NamespaceType;
use crate::tracee::freeze::task_name;
use nix::errno::Errno;

/// Why a process is no target.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetRefusal {
    /// There is none.
    #[error("there is no process with this pid")]
    NoSuchProcess,
    /// The pid names a thread.
    #[error("it is a thread of process {0}, not a process")]
    Thread(i32),
    /// A kernel thread.
    #[error("it is a kernel thread")]
    KernelThread,
    /// A zombie.
    #[error("it has ended, and waits for its parent to notice")]
    Zombie,
    /// Ourselves, or one of those we live under.
    #[error("it is {0}, which cannot be stopped while we work")]
    Ourselves(&'static str),
}

impl Explain for TargetRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Thread(pid) => Some(format!("dump process {pid}")),
            Self::Ourselves(_) => {
                Some("run stasis from outside of the tree, for example from another terminal".into())
            }
            _ => None,
        }
    }
}

/// `PF_KTHREAD` of `include/linux/sched.h`, as field 9 of `/proc/PID/stat` shows it.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_EXITING` of the same header.
const PF_EXITING: u32 = 0x0000_0004;

/// Whether a process has ended, or is about to: one that was killed shows as running until its memory has been freed.
pub(super) fn has_ended(pid: i32) -> bool {
    use procfs::stat::State;
    let stat = read_proc(format!("/proc/{pid}/stat"), procfs::stat::parse);
    stat.map_or(true, |stat| {
        matches!(stat.state, State::Zombie | State::Dead) || stat.flags & PF_EXITING != 0
    })
}

/// How the headline names the target.
pub(crate) fn describe(options: &DumpOptions) -> String {
    let pid = options.tree;
    let outside = |mut name: TaskName| {
        if options.inside.types.contains(&NamespaceType::Pid) {
            (name.host_pid, name.inner_pid) = (options.inside.outer_pid, Some(pid));
        }
        name.to_string()
    };
    task_name(pid).map_or_else(|| format!("process {pid}"), outside)
}

/// Looks at a process again if it was not to be seen, and is there all the same: while one of its threads executes a program, and
/// takes the place of the first, /proc shows nobody for a moment (`de_thread` of fs/exec.c).
pub(crate) fn until_seen<T>(pid: i32, look: impl Fn() -> Option<T>) -> Option<T> {
    const TRIES: usize = 100;
    let exists = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    for _ in 0..TRIES {
        let seen = look();
        if seen.is_some() || !exists() {
            return seen;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    look()
}

/// Refuses what cannot be a target.
pub(crate) fn check(pid: i32) -> Result<(), Problem> {
    let seen = until_seen(pid, || look(pid).transpose());
    seen.unwrap_or_else(|| Err(Problem::new(TargetRefusal::NoSuchProcess)))
}

/// Looks at a process; none if it is not to be seen.
fn look(pid: i32) -> Result<Option<()>, Problem> {
    let Ok(status) = read_proc(format!("/proc/{pid}/status"), procfs::status::parse) else { return Ok(None) };
    let Ok(stat) = read_proc(format!("/proc/{pid}/stat"), procfs::stat::parse) else { return Ok(None) };
    if status.tgid != pid {
        return Err(Problem::new(TargetRefusal::Thread(status.tgid)));
    }
    if status.kthread.unwrap_or(false) || stat.flags & PF_KTHREAD != 0 {
        return Err(Problem::new(TargetRefusal::KernelThread));
    }
    // A first thread that has ended is no end of the process: others may live, and one may be executing a program.
    if stat.state == procfs::stat::State::Zombie && stat.num_threads <= 1 {
        return Err(Problem::new(TargetRefusal::Zombie));
    }
    refuse_ancestors(pid)?;
    // The kernel's own answer to whether we may trace it, without doing so.
    let permitted = std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
    match permitted.map_err(SysError::io("ptrace access check")) {
        Ok(_) => Ok(Some(())),
        Err(SysError { errno: Errno::ENOENT | Errno::ESRCH, .. }) => Ok(None),
        Err(e) => Err(Problem::new(e).step("look at it as a tracer")),
    }
}

/// Ourselves, our parent, and so on up to init.
fn refuse_ancestors(pid: i32) -> Result<(), Problem> {
    let mut ancestor = std::process::id() as i32;
    let mut what = "stasis itself";
    while ancestor != 0 {
        if ancestor == pid {
            return Err(Problem::new(TargetRefusal::Ourselves(what)));
        }
        what = "an ancestor of stasis";
        let stat = read_proc(format!("/proc/{ancestor}/stat"), procfs::stat::parse);
        ancestor = stat.map_or(0, |s| s.ppid);
    }
    Ok(())
}
