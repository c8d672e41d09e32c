//! A stack that grows and shrinks all the time is right whenever it is dumped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

/// Levels of a recursion, of some KiB each.
const DEPTH: u64 = 200;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let worker = {
        let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
        cx.thread(move |_| {
            while !stop.load(Ordering::Relaxed) {
                ensure_eq!(deep(DEPTH), DEPTH * (DEPTH + 1) / 2, "sum of a recursion");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    cx.barrier()?;
    let before = rounds.load(Ordering::Relaxed);
    while rounds.load(Ordering::Relaxed) == before {
        if worker.is_finished() {
            break;
        }
        std::thread::yield_now();
    }

    stop.store(true, Ordering::Relaxed);
    worker.join()
}

/// Fills its part of the stack, goes on below, and looks at it again.
#[inline(never)]
fn deep(level: u64) -> u64 {
    let frame = std::hint::black_box([level; 256]);
    let below = if level == 0 { 0 } else { deep(level - 1) };
    let own = std::hint::black_box(&frame);
    if own.iter().all(|word| *word == level) { below + level } else { 0 }
}
