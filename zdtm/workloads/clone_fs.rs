//! Two processes have one working directory and one umask: what one changes, the other has. A third has its own.

use std::fs;

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict, exit_now};

const MASK: Mode = Mode::from_bits_truncate(0o134);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::create_dir(cx.path("one"))?;
    fs::create_dir(cx.path("two"))?;
    chdir(&cx.path("one"))?;
    let sharing = clone(libc::CLONE_FS, || {
        cx.post("sharing")?;
        cx.park()?;
        chdir(&cx.path("two"))?;
        umask(MASK);
        Ok(())
    })?;
    let alone = clone(0, || {
        cx.post("alone")?;
        cx.wait_for("moved")?;
        ensure_eq!(std::env::current_dir()?, cx.path("one"), "working directory of who has its own");
        Ok(())
    })?;
    cx.wait_for("sharing")?;
    cx.wait_for("alone")?;
    cx.barrier()?;
    sharing.join()?;
    ensure_eq!(std::env::current_dir()?, cx.path("two"), "working directory, which the child changed");
    ensure_eq!(umask(MASK), MASK, "umask, which the child changed");
    cx.post("moved")?;
    alone.join()
}

/// Like fork, with these flags.
fn clone(flags: i32, body: impl FnOnce() -> Verdict) -> Result<Child, Failure> {
    // SAFETY: without a new stack and without shared memory this is fork; no other thread exists.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })?;
    if pid == 0 {
        exit_now(i32::from(body().is_err()));
    }
    Ok(Child { pid: Pid::from_raw(pid as i32) })
}
