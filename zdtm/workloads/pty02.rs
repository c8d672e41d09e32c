//! A session keeps its controlling terminal and its foreground group; a task that has given the terminal up stays without.

use std::os::fd::AsFd as _;

use nix::unistd::{Pid, getpid, setpgid, setsid, tcgetpgrp, tcsetpgrp, write};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::terminal::{control, get_number, open_own, open_pair, read_exactly, request};

/// Field 7 of `stat`: the controlling terminal.
fn terminal() -> Result<i32, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    fields
        .split_whitespace()
        .nth(4)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Failure::new("no field 7"))
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (master, slave) = open_pair()?;
    let leader = cx.child(|cx| {
        let session = setsid()?;
        control(&slave)?;
        let own = open_own()?;
        let foreground = cx.child(|cx| {
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            cx.post("grouped")?;
            cx.park()?;
            ensure_eq!(tcgetpgrp(&slave)?, getpid(), "foreground group, asked in it");
            ensure!(open_own().is_ok(), "a member of the session has no controlling terminal");
            Ok(())
        })?;
        let without = cx.child(|cx| {
            request(&slave, libc::TIOCNOTTY)?;
            cx.post("given-up")?;
            cx.park()?;
            ensure_eq!(terminal()?, 0, "terminal of the task that has given it up");
            Ok(())
        })?;
        cx.wait_for("grouped")?;
        cx.wait_for("given-up")?;
        tcsetpgrp(&slave, foreground.pid)?;
        cx.post("set-up")?;
        cx.park()?;
        ensure_eq!(get_number(&own, libc::TIOCGSID)?, session.as_raw(), "session, asked through /dev/tty");
        ensure_eq!(tcgetpgrp(own.as_fd())?, foreground.pid, "foreground group");
        ensure!(terminal()? != 0, "the leader has no controlling terminal");
        write(&own, b"hello")?;
        foreground.join()?;
        without.join()?;
        // The terminal's session ends with its leader.
        cx.wait_for("asked")
    })?;
    cx.wait_for("set-up")?;
    cx.barrier()?;
    ensure_eq!(read_exactly(&master, 5)?, b"hello", "written to /dev/tty");
    ensure_eq!(get_number(&master, libc::TIOCGSID)?, leader.pid.as_raw(), "session, asked of the master");
    cx.post("asked")?;
    leader.join()
}
