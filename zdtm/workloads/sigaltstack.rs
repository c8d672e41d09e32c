//! Each thread keeps its alternate signal stack, and handlers run on it.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, READ_WRITE};

const SIZE: usize = 64 * 1024;

static HANDLER_STACK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note(_: i32) {
    let local = 0_u8;
    HANDLER_STACK.store((&raw const local).addr(), Ordering::Relaxed);
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handler only stores into an atomic.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    if cx.args().first().is_some_and(|word| word == "none") {
        return without(cx);
    }
    let other = cx.thread(|cx| {
        let stack = Mapping::anonymous(SIZE, READ_WRITE)?;
        exchange(Some(stack))?;
        cx.post("thread-ready")?;
        cx.park()?;
        ensure_eq!(exchange(None)?, (stack.address(), SIZE), "alternate stack of the thread");
        Ok(())
    });
    cx.wait_for("thread-ready")?;
    let stack = Mapping::anonymous(SIZE, READ_WRITE)?;
    exchange(Some(stack))?;
    cx.barrier()?;
    ensure_eq!(exchange(None)?, (stack.address(), SIZE), "alternate stack of the leader");
    raise(Signal::SIGUSR1)?;
    let place = HANDLER_STACK.load(Ordering::Relaxed);
    ensure!((stack.address()..stack.address() + SIZE).contains(&place), "the handler ran at {place:#x}");
    other.join()
}

/// A handler that may run on an alternate stack runs on the ordinary one where there is none.
fn without(cx: &mut Context) -> Verdict {
    let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: the kernel reads the structure; the old stack is not asked for.
    Errno::result(unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) })?;
    cx.barrier()?;
    raise(Signal::SIGUSR1)?;
    let place = HANDLER_STACK.load(Ordering::Relaxed);
    let local = 0_u8;
    let here = (&raw const local).addr();
    ensure!(place.abs_diff(here) < 1 << 20, "the handler ran at {place:#x}, far from {here:#x}");
    Ok(())
}

/// Sets a new stack, if one is given; returns the one before.
fn exchange(stack: Option<Mapping>) -> Result<(usize, usize), Failure> {
    let new =
        stack.map(|stack| libc::stack_t { ss_sp: stack.start.as_ptr(), ss_flags: 0, ss_size: stack.length });
    let mut old = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), |new| &raw const *new);
    // SAFETY: the new stack stays mapped for good; the old one is written during the call.
    Errno::result(unsafe { libc::sigaltstack(new, &raw mut old) })?;
    Ok((old.ss_sp.addr(), old.ss_size))
}
