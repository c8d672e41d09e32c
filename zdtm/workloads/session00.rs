//! A session whose leader has ended as a zombie, with members that live in several groups.

use std::time::Duration;

use nix::unistd::{Pid, getpgid, getsid, setpgid, setsid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    nix::sys::prctl::set_child_subreaper(true)?;
    let leader = cx.child(|cx| {
        let session = setsid()?;
        for number in 0..3 {
            cx.child(|cx| {
                if number > 0 {
                    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                }
                let group = getpgid(None)?;
                cx.post(&format!("member-{number}"))?;
                cx.park()?;
                ensure_eq!((getsid(None)?, getpgid(None)?), (session, group), "session and group");
                exit_now(20)
            })?;
        }
        (0..3).try_for_each(|number| cx.wait_for(&format!("member-{number}")))
    })?;
    // It is not waited for before the barrier.
    let stat = format!("/proc/{}/stat", leader.pid);
    while !std::fs::read_to_string(&stat)?.contains(") Z ") {
        std::thread::sleep(Duration::from_millis(1));
    }
    cx.barrier()?;
    let Child { pid: leader } = leader;
    for _ in 0..4 {
        let status = nix::sys::wait::waitpid(None::<Pid>, None)?;
        let code = if status.pid() == Some(leader) { 0 } else { 20 };
        zdtm::ensure!(
            matches!(status, nix::sys::wait::WaitStatus::Exited(_, is) if is == code),
            "{status:?}"
        );
    }
    Ok(())
}
