//! Children that have ended and were not waited for keep their exit codes.

use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut children = Vec::new();
    for code in [0, 1, 42, 255] {
        children.push((cx.child(|_| exit_now(code))?, code));
    }
    for (child, _) in &children {
        let path = format!("/proc/{}/stat", child.pid);
        while !std::fs::read_to_string(&path)?.contains(") Z ") {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    cx.barrier()?;
    for (child, code) in children {
        ensure_eq!(waitpid(child.pid, None)?, WaitStatus::Exited(child.pid, code), "end of a child");
    }
    Ok(())
}
