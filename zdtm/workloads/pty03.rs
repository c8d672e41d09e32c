//! Keys of job control reach the foreground group, and the group only; a closed master hangs the session up.

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, setpgid, setsid, tcsetpgrp, write};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::terminal::{control, open_pair};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (master, slave) = open_pair()?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let leader = cx.child(|cx| {
        // The child must not keep the master open.
        nix::unistd::close(std::os::fd::AsRawFd::as_raw_fd(&master))?;
        setsid()?;
        control(&slave)?;
        let foreground = cx.child(|cx| {
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            cx.post("grouped")?;
            cx.park()?;
            ensure_eq!(signals.wait()?, Signal::SIGINT, "signal in the foreground group");
            cx.post("interrupted")?;
            Ok(())
        })?;
        cx.wait_for("grouped")?;
        tcsetpgrp(&slave, foreground.pid)?;
        cx.post("set-up")?;
        cx.park()?;
        foreground.join()?;
        ensure_eq!(signals.wait()?, Signal::SIGHUP, "signal of the leader");
        Ok(())
    })?;
    cx.wait_for("set-up")?;
    cx.barrier()?;
    write(&master, b"\x03")?;
    cx.wait_for("interrupted")?;
    // Only the child has the slave open now, so that the hang-up is for it.
    drop(slave);
    drop(master);
    leader.join()
}
