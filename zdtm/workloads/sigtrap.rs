//! Breakpoints of a process reach its own handler: while it is dumped, and in a handler that is running then.

use std::arch::asm;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getpid, gettid};
use zdtm::workload::{Context, Thread, Verdict};
use zdtm::{ensure, ensure_eq};

/// `SI_KERNEL` of asm-generic/siginfo.h: what a breakpoint is told with.
const KERNEL: i32 = 0x80;

/// The thread that stays in the handler.
static STAYS: AtomicI32 = AtomicI32::new(0);
static INSIDE: AtomicBool = AtomicBool::new(false);
static GO: AtomicBool = AtomicBool::new(false);
static TOLD: AtomicU32 = AtomicU32::new(0);
/// Signals that say something else than that there was a breakpoint.
static WRONG: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_trap(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    if code != KERNEL {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
    if gettid().as_raw() == STAYS.load(Ordering::Relaxed) {
        INSIDE.store(true, Ordering::Relaxed);
        while !GO.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    } else {
        TOLD.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // Not blocked in the handler, so that the mask is the same whenever somebody looks.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_NODEFER;
    let action = SigAction::new(SigHandler::SigAction(on_trap), flags, SigSet::empty());
    // SAFETY: the handler only uses atomics.
    unsafe { sigaction(Signal::SIGTRAP, &action) }?;
    let stays = cx.thread(|_| {
        STAYS.store(gettid().as_raw(), Ordering::Relaxed);
        ensure_eq!(breakpoint(0x1234_5678_9abc), 0x1234_5678_9abc, "a register after the handler");
        Ok(())
    });
    let traps = cx.thread(|_| {
        let mut made = 0;
        while !GO.load(Ordering::Relaxed) {
            ensure_eq!(breakpoint(made), made, "a register after a breakpoint");
            made += 1;
        }
        ensure_eq!(u64::from(TOLD.load(Ordering::Relaxed)), made, "breakpoints that were told");
        Ok(())
    });
    let waits = cx.thread(pending);
    cx.wait_for("pending")?;
    while !INSIDE.load(Ordering::Relaxed) || TOLD.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    cx.barrier()?;
    let told = TOLD.load(Ordering::Relaxed);
    while TOLD.load(Ordering::Relaxed) == told {
        ensure!(!traps.is_finished(), "breakpoints are no longer told");
        std::thread::yield_now();
    }
    GO.store(true, Ordering::Relaxed);
    [stays, traps, waits].into_iter().try_for_each(Thread::join)?;
    ensure_eq!(WRONG.load(Ordering::Relaxed), 0, "signals that are not of a breakpoint");
    Ok(())
}

/// Has the signal pending for itself, as somebody sent it, which is no breakpoint.
fn pending(cx: &Context) -> Verdict {
    let set = SigSet::from(Signal::SIGTRAP);
    set.thread_block()?;
    let (pid, tid) = (getpid().as_raw(), gettid().as_raw());
    // SAFETY: tgkill takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGTRAP) })?;
    cx.post("pending")?;
    cx.wait_for("go.1")?;
    ensure_eq!(set.wait()?, Signal::SIGTRAP, "the pending signal");
    Ok(())
}

/// Runs into a breakpoint with a value in a register.
fn breakpoint(value: u64) -> u64 {
    let mut kept = value;
    // SAFETY: the handler returns to behind the breakpoint, and changes no register.
    unsafe { asm!("int3", inout("r12") kept) };
    kept
}
