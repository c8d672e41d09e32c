//! Threads that share their seccomp filters can be given more, all at once (`SECCOMP_FILTER_FLAG_TSYNC`).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Thread, Verdict};

use crate::filter::{TSYNC, deny, error_of};

static STEP: AtomicU32 = AtomicU32::new(0);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let threads: Vec<Thread> = (0..3)
        .map(|_| {
            cx.thread(|_| {
                while STEP.load(Ordering::Acquire) == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                ensure_eq!(error_of(libc::SYS_getppid), Some(libc::EXDEV), "error of the first filter");
                ensure_eq!(error_of(libc::SYS_getuid), Some(libc::EDOM), "error of the second filter");
                Ok(())
            })
        })
        .collect();
    deny(libc::SYS_getppid, libc::EXDEV, TSYNC)?;
    cx.barrier()?;
    ensure_eq!(error_of(libc::SYS_getppid), Some(libc::EXDEV), "error of the leader's filter");
    // Only possible if all threads' filters are this thread's, not merely equal.
    deny(libc::SYS_getuid, libc::EDOM, TSYNC)?;
    STEP.store(1, Ordering::Release);
    threads.into_iter().try_for_each(Thread::join)
}
