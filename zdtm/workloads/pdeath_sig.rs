//! A child still gets its chosen signal when its parent ends.

use std::time::Duration;

use nix::sys::prctl::{get_pdeathsig, set_child_subreaper, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use zdtm::workload::{Context, Verdict, exit_now};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set_child_subreaper(true)?;
    let parent = cx.child(|cx| {
        cx.child(|cx| {
            set_pdeathsig(Signal::SIGUSR2)?;
            cx.post("child-ready")?;
            cx.park()?;
            if get_pdeathsig()? != Some(Signal::SIGUSR2) {
                exit_now(1);
            }
            cx.post("child-checked")?;
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        })?;
        cx.park()?;
        cx.wait_for("child-checked")
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    ensure_eq!(waitpid(parent.pid, None)?, WaitStatus::Exited(parent.pid, 0), "end of the parent");
    let status = waitpid(None::<Pid>, None)?;
    ensure!(matches!(status, WaitStatus::Signaled(_, Signal::SIGUSR2, _)), "the child: {status:?}");
    Ok(())
}
