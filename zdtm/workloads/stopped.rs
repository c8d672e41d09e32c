//! A child that was stopped stays stopped, and goes on when it is told to.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        cx.post("child-ready")?;
        cx.wait_for("child-go")?;
        cx.post("child-went-on")
    })?;
    cx.wait_for("child-ready")?;
    kill(child.pid, Signal::SIGSTOP)?;
    let stopped = WaitStatus::Stopped(child.pid, Signal::SIGSTOP);
    // A stop that was seen is not told again; one that was not seen is.
    let seen = cx.args().first().is_some_and(|word| word == "seen");
    if seen {
        ensure_eq!(waitpid(child.pid, Some(WaitPidFlag::WUNTRACED))?, stopped, "the stop");
    } else {
        let stat = format!("/proc/{}/stat", child.pid);
        while !std::fs::read_to_string(&stat)?.contains(") T ") {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    cx.barrier()?;
    cx.post("child-go")?;
    std::thread::sleep(Duration::from_millis(50));
    ensure_eq!(cx.posted("child-went-on"), false, "running though stopped");
    let told = waitpid(child.pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG))?;
    ensure_eq!(told, if seen { WaitStatus::StillAlive } else { stopped }, "what the parent is told");
    kill(child.pid, Signal::SIGCONT)?;
    child.join()
}
