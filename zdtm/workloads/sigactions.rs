//! Dispositions, masks and flags of all signals are kept, and blocked signals stay blocked.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, raise, sigaction, sigprocmask,
};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn note(signal: i32) {
    SEEN.fetch_or(1 << signal, Ordering::Relaxed);
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let wanted: Vec<(Signal, SigAction)> = Signal::iterator()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP))
        .map(|signal| (signal, action(signal)))
        .collect();
    for (signal, action) in &wanted {
        exchange(*signal, action)?;
    }
    let blocked: SigSet = [Signal::SIGUSR2, Signal::SIGWINCH].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
    cx.barrier()?;
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, None, Some(&mut mask))?;
    ensure_eq!(mask, blocked, "blocked signals");
    raise(Signal::SIGUSR1)?;
    raise(Signal::SIGUSR2)?;
    let seen = SEEN.load(Ordering::Relaxed);
    ensure_eq!(
        seen & (1 << libc::SIGUSR1 | 1 << libc::SIGUSR2),
        1 << libc::SIGUSR1,
        "signals that were seen"
    );
    for (signal, action) in &wanted {
        ensure_eq!(facts(&exchange(*signal, action)?), facts(action), format!("action for {signal}"));
    }
    Ok(())
}

/// Another action for each signal, so that none can stand for another.
fn action(signal: Signal) -> SigAction {
    let number = signal as usize;
    let handler = match number % 3 {
        0 => SigHandler::SigDfl,
        1 => SigHandler::SigIgn,
        _ => SigHandler::Handler(note),
    };
    let handler = if signal == Signal::SIGUSR1 { SigHandler::Handler(note) } else { handler };
    let flags = [SaFlags::SA_RESTART, SaFlags::SA_NODEFER, SaFlags::SA_ONSTACK | SaFlags::SA_RESTART];
    let mask = Signal::iterator().filter(|other| *other as usize % 5 == number % 5);
    let mask = mask.filter(|other| !matches!(other, Signal::SIGKILL | Signal::SIGSTOP));
    SigAction::new(handler, flags[number % flags.len()], mask.collect())
}

/// The C library adds a flag and a function of its own, which are not looked at.
fn facts(action: &SigAction) -> (String, SaFlags, SigSet) {
    (format!("{:?}", action.handler()), action.flags(), action.mask())
}

fn exchange(signal: Signal, action: &SigAction) -> Result<SigAction, Failure> {
    // SAFETY: the handler only stores into an atomic.
    Ok(unsafe { sigaction(signal, action) }?)
}
