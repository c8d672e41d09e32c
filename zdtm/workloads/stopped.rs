//! A child that was stopped stays stopped, in all of its threads, and goes on when it is told to. Its parent hears of the
//! stop as often as it would have.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Thread, Verdict};

static TOLD: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    TOLD.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let has = |word: &str| cx.args().iter().any(|arg| arg == word);
    let names = [("tstp", Signal::SIGTSTP), ("ttin", Signal::SIGTTIN), ("ttou", Signal::SIGTTOU)];
    let signal = names.iter().find(|(name, _)| has(name)).map_or(Signal::SIGSTOP, |(_, signal)| *signal);
    let (seen, threads) = (has("seen"), if has("threads") { 3 } else { 0 });
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only adds to an atomic.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    let child = cx.child(move |cx| {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        let thread = |number| cx.thread(move |cx| wait_and_go_on(cx, &format!("thread-{number}")));
        let threads: Vec<_> = (0..threads).map(thread).collect();
        wait_and_go_on(cx, "child")?;
        threads.into_iter().try_for_each(Thread::join)
    })?;
    cx.wait_for("child-ready")?;
    (0..threads).try_for_each(|number| cx.wait_for(&format!("thread-{number}-ready")))?;
    kill(child.pid, signal)?;
    let stopped = WaitStatus::Stopped(child.pid, signal);
    // A stop that was seen is not told again; one that was not seen is.
    if seen {
        ensure_eq!(waitpid(child.pid, Some(WaitPidFlag::WUNTRACED))?, stopped, "the stop");
    }
    let stat = format!("/proc/{}/stat", child.pid);
    while !std::fs::read_to_string(&stat)?.contains(") T ") || TOLD.load(Ordering::Relaxed) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    cx.barrier()?;
    cx.post("go")?;
    std::thread::sleep(Duration::from_millis(50));
    ensure_eq!(cx.posted("child-went-on"), false, "running though stopped");
    (0..threads).try_for_each(|number| {
        ensure_eq!(cx.posted(&format!("thread-{number}-went-on")), false, "a thread running though stopped");
        Ok(())
    })?;
    ensure_eq!(TOLD.load(Ordering::Relaxed), 1, "signals that told of the stop");
    let told = waitpid(child.pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG))?;
    ensure_eq!(told, if seen { WaitStatus::StillAlive } else { stopped }, "what the parent is told");
    kill(child.pid, Signal::SIGCONT)?;
    child.join()
}

fn wait_and_go_on(cx: &Context, name: &str) -> Verdict {
    cx.post(&format!("{name}-ready"))?;
    cx.wait_for("go")?;
    cx.post(&format!("{name}-went-on"))
}
