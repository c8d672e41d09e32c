//! Threads wait for a mutex with priority inheritance: its holder goes on with their priority, and hands it to them one after
//! the other; one that is robust tells the next that its holder has ended.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Thread, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mutex::Mutex;

static MUTEX: Mutex = Mutex::new();
static ROBUST: Mutex = Mutex::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

const WAITERS: u32 = 3;
/// Real-time priority of the waiters, and what `/proc/PID/stat` makes of it.
const PRIORITY: i32 = 5;
const SHOWN: i64 = -1 - PRIORITY as i64;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    MUTEX.init(false, libc::PTHREAD_PRIO_INHERIT)?;
    ROBUST.init(true, libc::PTHREAD_PRIO_INHERIT)?;
    let doomed = cx.thread(|cx| {
        ensure_eq!(ROBUST.lock(), 0, "locking the robust one");
        cx.post("locked")?;
        cx.park()
    });
    cx.wait_for("locked")?;
    ensure_eq!(MUTEX.lock(), 0, "locking");
    let waiters: Vec<Thread> = (0..WAITERS).map(|_| cx.thread(|_| wait())).collect();
    let heir = cx.thread(|_| {
        ensure_eq!(ROBUST.lock(), libc::EOWNERDEAD, "locking after the holder's end");
        ensure_eq!([ROBUST.consistent(), ROBUST.unlock(), ROBUST.lock()], [0; 3], "using it again");
        Ok(())
    });
    ensure!(is_boosted()?, "the holder has not the priority of those who wait");
    // The heir sleeps soon; a dump before that is a good test, too.
    std::thread::sleep(Duration::from_millis(20));
    cx.barrier()?;
    ensure!(is_boosted()?, "the holder has lost the priority of those who wait");
    ensure_eq!(COUNT.load(Ordering::Acquire), 0, "threads that had the mutex while it was held");
    ensure_eq!(MUTEX.unlock(), 0, "unlocking");
    waiters.into_iter().try_for_each(Thread::join)?;
    ensure_eq!(COUNT.load(Ordering::Acquire), WAITERS, "threads that had the mutex");
    doomed.join()?;
    heir.join()
}

fn wait() -> Verdict {
    let parameter = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the parameter lives during the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) })?;
    ensure_eq!(MUTEX.lock(), 0, "locking in its turn");
    COUNT.fetch_add(1, Ordering::AcqRel);
    ensure_eq!(MUTEX.unlock(), 0, "unlocking in its turn");
    Ok(())
}

/// Whether we run with the priority of the waiters, or do so soon.
fn is_boosted() -> Result<bool, Failure> {
    let end = Instant::now() + Duration::from_secs(3);
    loop {
        let stat = std::fs::read_to_string("/proc/thread-self/stat")?;
        // The priority is field 18 of proc_pid_stat(5), the 16th behind the name.
        let field = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(15)?.parse::<i64>().ok());
        if field == Some(SHOWN) {
            return Ok(true);
        }
        if Instant::now() > end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
