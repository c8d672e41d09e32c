//! Descriptors of the own process and of its threads lead to them.

use nix::unistd::{getpid, gettid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::process_fd::{self as pidfd, THREAD};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (tell, tid) = std::sync::mpsc::channel();
    let thread = cx.thread(move |cx| {
        tell.send(gettid()).ok();
        cx.wait_for("end")
    });
    let tid = tid.recv()?.as_raw();
    let own = getpid().as_raw();
    let process = pidfd::open(own, libc::O_NONBLOCK)?;
    let leader = pidfd::open(own, THREAD)?;
    let other = pidfd::open(tid, THREAD)?;
    cx.barrier()?;
    let pids = [pidfd::pid(&process)?, pidfd::pid(&leader)?, pidfd::pid(&other)?];
    ensure_eq!(pids, [own, own, tid], "whom they lead to");
    ensure_eq!(pidfd::signal(&process, 0), Ok(()), "a signal to the process");
    ensure_eq!(pidfd::signal(&leader, 0), Ok(()), "a signal to the leader");
    cx.post("end")?;
    thread.join()?;
    // The thread is joined a moment before it is gone.
    while !pidfd::has_ended(&other)? {
        std::thread::yield_now();
    }
    Ok(())
}
