//! Many threads keep their ids, their names and their thread-local variables.

use std::cell::Cell;
use std::fs;

use nix::unistd::gettid;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Thread, Verdict};

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

const THREADS: u64 = 20;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    OWN.set(99);
    let spawn = |number: u64| cx.thread(move |cx| thread(cx, number));
    let threads: Vec<_> = (0..THREADS).map(spawn).collect();
    (0..THREADS).try_for_each(|number| cx.wait_for(&format!("thread-{number}")))?;
    cx.barrier()?;
    ensure_eq!(OWN.get(), 99, "thread-local variable of the leader");
    threads.into_iter().try_for_each(Thread::join)
}

fn thread(cx: &Context, number: u64) -> Verdict {
    let name = format!("zdtm {number}");
    let tid = gettid();
    fs::write("/proc/thread-self/comm", &name)?;
    OWN.set(number + 1000);
    cx.post(&format!("thread-{number}"))?;
    cx.park()?;
    ensure_eq!(OWN.get(), number + 1000, format!("thread-local variable of {name}"));
    ensure_eq!(gettid(), tid, format!("id of {name}"));
    ensure_eq!(fs::read_to_string("/proc/thread-self/comm")?.trim(), name, "name");
    Ok(())
}
