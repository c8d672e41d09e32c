//! A thread that steps itself, with the trap flag, takes every step, and stops stepping when it clears the flag.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::spinning;

/// `TRAP_TRACE` of asm-generic/siginfo.h.
const TRACE: i32 = 2;
/// Instructions of a round of the loop.
const ROUND: u64 = 3;

static STEPS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_trap(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    let counter = if code == TRACE { &STEPS } else { &WRONG };
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // Not blocked in the handler, so that the mask is the same whenever somebody looks.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_NODEFER;
    let action = SigAction::new(SigHandler::SigAction(on_trap), flags, SigSet::empty());
    // SAFETY: the handler only uses atomics.
    unsafe { sigaction(Signal::SIGTRAP, &action) }?;
    spinning::hold(cx, 1, |_| {
        let rounds = step();
        let steps = STEPS.load(Ordering::Relaxed);
        // Around the loop: three before it, and three at its end until the flag is cleared.
        ensure!(
            steps.abs_diff(rounds * ROUND) <= 8,
            "{steps} steps in {rounds} rounds of {ROUND} instructions"
        );
        ensure_eq!(WRONG.load(Ordering::Relaxed), 0, "signals that are not of a step");
        let _more = std::hint::black_box(rounds).wrapping_mul(3);
        ensure_eq!(STEPS.load(Ordering::Relaxed), steps, "steps after the flag was cleared");
        Ok(())
    })
}

/// Steps until it may go on; the rounds that it made.
fn step() -> u64 {
    let mut rounds = 0_u64;
    // SAFETY: the flag is cleared again, the stack is left as it was, memory is the two words only; the handler returns.
    unsafe {
        asm!(
            "pushfq", "or qword ptr [rsp], 0x100", "popfq",
            "lock inc dword ptr [{started}]",
            "2: inc {rounds}", "cmp dword ptr [{go}], 0", "je 2b",
            "pushfq", "and qword ptr [rsp], ~0x100", "popfq",
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
            rounds = inout(reg) rounds,
        );
    }
    rounds
}
