//! A child subreaper stays one: an orphan is given to it.

use nix::sys::prctl::{get_child_subreaper, set_child_subreaper};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set_child_subreaper(true)?;
    cx.barrier()?;
    ensure!(get_child_subreaper()?, "no longer a child subreaper");
    let middle = cx.child(|cx| {
        cx.child(|_| exit_now(7))?;
        Ok(())
    })?;
    middle.join()?;
    let status = waitpid(None::<Pid>, None)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 7)), "the orphan: {status:?}");
    Ok(())
}
