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

/// Refuses what cannot be a target.
pub(crate) fn check(pid: i32) -> Result<(), Problem> {
    let missing = |_| Problem::new(TargetRefusal::NoSuchProcess);
    let status = read_proc(format!("/proc/{pid}/status"), procfs::status::parse).map_err(missing)?;
    let stat = read_proc(format!("/proc/{pid}/stat"), procfs::stat::parse).map_err(missing)?;
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
    permitted.map_err(SysError::io("ptrace access check")).map_err(|e| match e.errno {
        Errno::ENOENT | Errno::ESRCH => Problem::new(TargetRefusal::NoSuchProcess),
        _ => Problem::new(e).step("look at it as a tracer"),
    })?;
    Ok(())
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
