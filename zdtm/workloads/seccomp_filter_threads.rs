//! Threads have seccomp filters of their own: what one may not do, another may.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Thread, Verdict};

use crate::filter::{deny, error_of};

static READY: AtomicU32 = AtomicU32::new(0);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // In force for all: threads inherit it.
    deny(libc::SYS_getuid, libc::EDOM, 0)?;
    let threads: Vec<Thread> = [None, Some(libc::EXDEV), Some(libc::ENOTUNIQ)]
        .into_iter()
        .map(|error| {
            cx.thread(move |cx| {
                if let Some(errno) = error {
                    deny(libc::SYS_getppid, errno, 0)?;
                }
                READY.fetch_add(1, Ordering::AcqRel);
                cx.park()?;
                ensure_eq!(error_of(libc::SYS_getppid), error, "error of the thread's own filter");
                ensure_eq!(error_of(libc::SYS_getuid), Some(libc::EDOM), "error of the inherited filter");
                Ok(())
            })
        })
        .collect();
    while READY.load(Ordering::Acquire) < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    cx.barrier()?;
    ensure_eq!(error_of(libc::SYS_getppid), None, "error of the leader, which has no such filter");
    ensure_eq!(error_of(libc::SYS_getuid), Some(libc::EDOM), "error of the leader's filter");
    threads.into_iter().try_for_each(Thread::join)
}
