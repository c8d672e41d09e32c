//! A process that unmapped its vdso goes on without one.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        cx.post("child-ready")?;
        let (start, length) = range()?;
        let address = std::ptr::with_exposed_provenance_mut(start);
        // Everything that reads a clock is over for this process.
        // SAFETY: from here on the child makes raw system calls only.
        Errno::result(unsafe { libc::munmap(address, length) })?;
        // SAFETY: the name is terminated.
        while unsafe { libc::access(c"go.1".as_ptr(), libc::F_OK) } != 0 {
            let pause = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            // SAFETY: the time lives during the call.
            unsafe { libc::syscall(libc::SYS_nanosleep, &raw const pause, 0) };
        }
        exit_now(0)
    })?;
    cx.wait_for("child-ready")?;
    let end = Instant::now() + Duration::from_secs(5);
    let maps = format!("/proc/{}/maps", child.pid);
    while std::fs::read_to_string(&maps)?.contains("[vdso]") {
        ensure!(Instant::now() < end, "the child still has its vdso");
        std::thread::sleep(Duration::from_millis(1));
    }
    cx.barrier()?;
    child.join()
}

fn range() -> Result<(usize, usize), Failure> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line.and_then(|line| line.split(' ').next()).and_then(|range| range.split_once('-'));
    let (start, end) = range.ok_or_else(|| Failure::new("no vdso"))?;
    let (start, end) = (usize::from_str_radix(start, 16)?, usize::from_str_radix(end, 16)?);
    Ok((start, end - start))
}
