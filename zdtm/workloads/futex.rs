//! A thread that sleeps on a futex wakes up when it is woken.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use zdtm::ensure;
use zdtm::workload::{Context, Failure, Thread, Verdict};

static WORD: AtomicU32 = AtomicU32::new(0);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let sleepers: Vec<_> = (0..3)
        .map(|_| {
            cx.thread(|_| {
                sleep_until_changed();
                Ok(())
            })
        })
        .collect();
    // The threads sleep soon; a dump before that is a good test, too.
    std::thread::sleep(Duration::from_millis(20));
    cx.barrier()?;
    // They go on with their sleep when they get the processor.
    let end = Instant::now() + Duration::from_secs(5);
    while asleep()? < sleepers.len() {
        ensure!(Instant::now() < end, "not all threads sleep");
        std::thread::sleep(Duration::from_millis(1));
    }
    WORD.store(1, Ordering::Release);
    let woken = futex(libc::FUTEX_WAKE, i32::MAX as u32);
    ensure!(woken == 3, "{woken} threads were woken instead of 3");
    let end = Instant::now() + Duration::from_secs(5);
    while sleepers.iter().any(|sleeper| !sleeper.is_finished()) {
        ensure!(Instant::now() < end, "a thread sleeps on");
        std::thread::sleep(Duration::from_millis(5));
    }
    sleepers.into_iter().try_for_each(Thread::join)
}

/// How many threads of ours sleep.
fn asleep() -> Result<usize, Failure> {
    let mut count = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        count += usize::from(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')));
    }
    Ok(count)
}

fn sleep_until_changed() {
    while WORD.load(Ordering::Acquire) == 0 {
        futex(libc::FUTEX_WAIT, 0);
    }
}

fn futex(operation: i32, value: u32) -> i64 {
    let timeout = std::ptr::null::<libc::timespec>();
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is static, and no timeout is given.
    unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), operation, value, timeout) }
}
