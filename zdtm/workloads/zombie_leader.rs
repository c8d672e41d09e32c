//! The first thread of a child has ended, and others live: the child is a zombie that runs on, and can be waited for later.

use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::getpid;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

const CODE: i32 = 7;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        for number in 0..2 {
            let _detached = cx.thread(move |cx| {
                let pid = getpid();
                cx.post(&format!("thread-{number}"))?;
                cx.park()?;
                if getpid() == pid {
                    cx.post(&format!("thread-{number}-went-on"))?;
                }
                // Not by returning, which would end the process if this is the last. The code of the process is that of the
                // last thread, or of the first before Linux 6.1.
                cx.wait_for("end")?;
                end_thread(CODE)
            });
        }
        end_thread(CODE)
    })?;
    (0..2).try_for_each(|number| cx.wait_for(&format!("thread-{number}")))?;
    let stat = format!("/proc/{}/stat", child.pid);
    while !std::fs::read_to_string(&stat)?.contains(") Z ") {
        std::thread::sleep(Duration::from_millis(1));
    }
    cx.barrier()?;
    (0..2).try_for_each(|number| cx.wait_for(&format!("thread-{number}-went-on")))?;
    ensure_eq!(waitpid(child.pid, Some(WaitPidFlag::WNOHANG))?, WaitStatus::StillAlive, "while threads live");
    cx.post("end")?;
    ensure_eq!(waitpid(child.pid, None)?, WaitStatus::Exited(child.pid, CODE), "end of the child");
    Ok(())
}

fn end_thread(code: i32) -> ! {
    // SAFETY: ends the calling thread, whose stack and locals nobody else uses.
    unsafe { libc::syscall(libc::SYS_exit, code) };
    unreachable!("exit does not return")
}
