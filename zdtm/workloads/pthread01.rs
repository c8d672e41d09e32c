//! Threads keep their own signal masks, and a signal for one thread reaches it.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use nix::unistd::{getpid, gettid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Thread, Verdict};

const MASKS: [&[Signal]; 3] = [&[Signal::SIGUSR1], &[Signal::SIGUSR2, Signal::SIGHUP], &[Signal::SIGCHLD]];

static SEEN_BY: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(_: i32) {
    SEEN_BY.store(gettid().as_raw(), Ordering::Relaxed);
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler makes one system call and one atomic store.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    let spawn = |number: usize| cx.thread(move |cx| thread(cx, number));
    let threads: Vec<_> = (0..MASKS.len()).map(spawn).collect();
    (0..MASKS.len()).try_for_each(|number| cx.wait_for(&format!("thread-{number}")))?;
    cx.barrier()?;
    threads.into_iter().try_for_each(Thread::join)
}

fn thread(cx: &Context, number: usize) -> Verdict {
    let mask: SigSet = MASKS[number].iter().copied().collect();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
    cx.post(&format!("thread-{number}"))?;
    cx.park()?;
    let mut found = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, None, Some(&mut found))?;
    ensure_eq!(found, mask, format!("signal mask of thread {number}"));
    if number == 0 {
        let (pid, tid) = (getpid().as_raw(), gettid().as_raw());
        // SAFETY: tgkill takes numbers only.
        Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGTERM) })?;
        ensure_eq!(SEEN_BY.load(Ordering::Relaxed), tid, "thread that saw the signal");
    }
    Ok(())
}
