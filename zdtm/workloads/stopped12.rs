//! Children that were stopped and continued run on. Their parent is told of the continuation once, if it was not before.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut children = Vec::new();
    for seen in [false, true] {
        let child = cx.child(move |cx| {
            let thread = cx.thread(|cx| cx.wait_for("end"));
            cx.post(&format!("ready-{seen}"))?;
            cx.park()?;
            cx.post(&format!("went-on-{seen}"))?;
            thread.join()
        })?;
        cx.wait_for(&format!("ready-{seen}"))?;
        kill(child.pid, Signal::SIGSTOP)?;
        let stopped = WaitStatus::Stopped(child.pid, Signal::SIGSTOP);
        ensure_eq!(waitpid(child.pid, Some(WaitPidFlag::WUNTRACED))?, stopped, "the stop");
        kill(child.pid, Signal::SIGCONT)?;
        if seen {
            let told = waitpid(child.pid, Some(WaitPidFlag::WCONTINUED))?;
            ensure_eq!(told, WaitStatus::Continued(child.pid), "the continuation");
        }
        children.push((child, seen));
    }
    cx.barrier()?;
    for (child, seen) in &children {
        cx.wait_for(&format!("went-on-{seen}"))?;
        let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
        if !seen {
            let told = waitpid(child.pid, Some(flags))?;
            ensure_eq!(told, WaitStatus::Continued(child.pid), "what the parent is told");
        }
        ensure_eq!(waitpid(child.pid, Some(flags))?, WaitStatus::StillAlive, "what it is told then");
    }
    cx.post("end")?;
    children.into_iter().map(|(child, _)| child).try_for_each(Child::join)
}
