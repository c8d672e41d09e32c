//! A robust mutex whose holder ends tells the next one so.

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mutex::Mutex;

static MUTEX: Mutex = Mutex::new();

pub(crate) fn run(cx: &mut Context) -> Verdict {
    MUTEX.init(true, libc::PTHREAD_PRIO_NONE)?;
    let holder = cx.thread(|cx| {
        ensure_eq!(MUTEX.lock(), 0, "locking");
        cx.post("locked")?;
        cx.park()
    });
    cx.wait_for("locked")?;
    cx.barrier()?;
    holder.join()?;
    let result = MUTEX.lock();
    ensure!(result == libc::EOWNERDEAD, "locking after the holder's end: {result} instead of EOWNERDEAD");
    Ok(())
}
