//! Threads of one process have different users and groups.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Thread, Verdict, status_line};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let spawn = |number: u32| cx.thread(move |cx| thread(cx, number));
    let threads: Vec<_> = (0..3).map(spawn).collect();
    (0..3).try_for_each(|number| cx.wait_for(&format!("thread-{number}")))?;
    cx.barrier()?;
    threads.into_iter().try_for_each(Thread::join)?;
    ensure_eq!(status_line("/proc/self/status", "Uid")?, "0\t0\t0\t0", "user ids of the leader");
    Ok(())
}

fn thread(cx: &Context, number: u32) -> Verdict {
    let id = 1000 + number;
    // SAFETY: the raw calls take numbers, and change this thread only, unlike those of the C library.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, id, id + 10, 0) })?;
    // SAFETY: as above.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, id, id, 0) })?;
    let status = "/proc/thread-self/status";
    let before = ["Uid", "Gid", "CapEff", "CapPrm"].map(|key| status_line(status, key).ok());
    cx.post(&format!("thread-{number}"))?;
    cx.park()?;
    let after = ["Uid", "Gid", "CapEff", "CapPrm"].map(|key| status_line(status, key).ok());
    ensure_eq!(after, before, format!("credentials of thread {number}"));
    Ok(())
}
