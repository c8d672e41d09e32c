//! Children that were killed and not waited for keep the signals that killed them.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{pause, setsid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut children = Vec::new();
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGUSR1] {
        let child = cx.child(|_| {
            if signal == Signal::SIGUSR1 {
                setsid()?;
            }
            loop {
                pause();
            }
        })?;
        let path = format!("/proc/{}/stat", child.pid);
        while !std::fs::read_to_string(&path)?.contains(") S ") {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(child.pid, signal)?;
        while !std::fs::read_to_string(&path)?.contains(") Z ") {
            std::thread::sleep(Duration::from_millis(1));
        }
        children.push((child, signal));
    }
    cx.barrier()?;
    for (child, signal) in children {
        ensure_eq!(
            waitpid(child.pid, None)?,
            WaitStatus::Signaled(child.pid, signal, false),
            "end of a child"
        );
    }
    Ok(())
}
