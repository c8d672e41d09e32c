//! A long sleep that is interrupted by the dump goes on, and ends when it should.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

const SLEEP: Duration = Duration::from_millis(600);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let sleeper = cx.thread(|cx| {
        let time = libc::timespec { tv_sec: 0, tv_nsec: SLEEP.as_nanos() as i64 };
        let start = Instant::now();
        cx.post("thread-ready")?;
        // SAFETY: the time lives during the call. The raw call shows an interruption, which the library would hide.
        let result = Errno::result(unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, 0) });
        let slept = start.elapsed();
        result?;
        ensure!(slept >= SLEEP, "it slept only {slept:?}");
        Ok(())
    });
    cx.wait_for("thread-ready")?;
    cx.barrier()?;
    sleeper.join()
}
