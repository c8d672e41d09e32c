//! Two processes have one working directory and one umask: what one changes, the other has. A third has its own.

use std::fs;

use nix::sys::stat::{Mode, umask};
use nix::unistd::chdir;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

const MASK: Mode = Mode::from_bits_truncate(0o134);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::create_dir(cx.path("one"))?;
    fs::create_dir(cx.path("two"))?;
    chdir(&cx.path("one"))?;
    let sharing = cx.cloned_child(libc::CLONE_FS | libc::SIGCHLD, |cx| {
        cx.post("sharing")?;
        cx.park()?;
        chdir(&cx.path("two"))?;
        umask(MASK);
        Ok(())
    })?;
    let alone = cx.cloned_child(libc::SIGCHLD, |cx| {
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
