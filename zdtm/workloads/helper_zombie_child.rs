//! Zombies in a session and in groups whose leaders have ended, children of an orphan.

use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid, getsid, pause, setpgid, setsid};
use zdtm::workload::{Context, Verdict, exit_now};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set_child_subreaper(true)?;
    let root = getpid();
    let middle = cx.child(|cx| {
        let session = setsid()?;
        cx.child(|cx| orphan(cx, session, root))?;
        Ok(())
    })?;
    middle.join()?;
    cx.wait_for("orphan")?;
    cx.barrier()?;
    let status = waitpid(None::<Pid>, None)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 20)), "the orphan: {status:?}, see workload.log");
    Ok(())
}

fn orphan(cx: &Context, session: Pid, root: Pid) -> Verdict {
    while getppid() != root {
        std::thread::sleep(Duration::from_millis(1));
    }
    let exited = cx.child(|_| exit_now(9))?;
    let killed = cx.child(|_| {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        loop {
            pause();
        }
    })?;
    wait_for_state(killed.pid, " S ")?;
    kill(killed.pid, Signal::SIGTERM)?;
    wait_for_state(killed.pid, " Z ")?;
    wait_for_state(exited.pid, " Z ")?;
    cx.post("orphan")?;
    cx.park()?;
    ensure_eq!(getsid(None)?, session, "session");
    ensure_eq!(waitpid(exited.pid, None)?, WaitStatus::Exited(exited.pid, 9), "the first zombie");
    let status = WaitStatus::Signaled(killed.pid, Signal::SIGTERM, false);
    ensure_eq!(waitpid(killed.pid, None)?, status, "the second zombie");
    exit_now(20)
}

fn wait_for_state(pid: Pid, state: &str) -> Verdict {
    while !std::fs::read_to_string(format!("/proc/{pid}/stat"))?.contains(state) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
