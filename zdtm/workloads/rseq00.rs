//! The restartable-sequences area stays registered: the kernel keeps the processor number in it current.

use std::arch::asm;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let area = area()?;
    let before = cpu_id(area);
    ensure!(before < 1 << 16, "the area is not registered: {before:#x}");
    cx.barrier()?;
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    for cpu in (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
        let mut one = CpuSet::new();
        one.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        ensure_eq!(cpu_id(area), cpu as u32, "processor number in the area");
    }
    Ok(())
}

/// The area of this thread, as glibc tells it: an offset from the thread pointer.
pub(crate) fn area() -> Result<*const u32, Failure> {
    // SAFETY: the name is terminated.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    ensure!(!offset.is_null(), "no __rseq_offset");
    // SAFETY: glibc documents the symbol as a ptrdiff_t.
    let offset = unsafe { *offset.cast::<isize>() };
    let thread: *const u8;
    // SAFETY: on x86-64 the word at fs:0 is the thread pointer itself.
    unsafe { asm!("mov {}, fs:0", out(reg) thread) };
    Ok(thread.wrapping_offset(offset).cast())
}

/// `cpu_id`, the second word of struct rseq of linux/rseq.h.
fn cpu_id(area: *const u32) -> u32 {
    // SAFETY: the area lives as long as the thread; the kernel may write to it at any time.
    unsafe { area.wrapping_add(1).read_volatile() }
}
