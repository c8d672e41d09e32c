//! Memory that a process shares with its child is one memory again: contents, holes, and what one writes the other reads.

use std::num::NonZeroUsize;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use std::sync::atomic::{AtomicU64, Ordering};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

const WORDS: usize = 1 << 20;
const LENGTH: NonZeroUsize = NonZeroUsize::new(WORDS * 8).expect("it is not zero");

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let start = unsafe { mmap_anonymous(None, LENGTH, prot, MapFlags::MAP_SHARED) }?;
    let start = start.cast::<AtomicU64>();
    // SAFETY: the mapping has that many words, is never unmapped, and zeros are valid ones.
    let words = unsafe { std::slice::from_raw_parts(start.as_ptr(), WORDS) };
    // Some pages of many: the rest are holes.
    let touched = || words.iter().enumerate().step_by(512 * 7);
    touched().for_each(|(at, word)| word.store(at as u64 + 1, Ordering::Relaxed));
    let child = cx.child(|cx| {
        cx.park()?;
        while words[1].load(Ordering::Acquire) != 42 {
            std::thread::yield_now();
        }
        words[2].store(43, Ordering::Release);
        exit_now(0)
    })?;
    cx.barrier()?;
    for (at, word) in touched() {
        ensure_eq!(word.load(Ordering::Relaxed), at as u64 + 1, "a word");
    }
    ensure_eq!(words[513].load(Ordering::Relaxed), 0, "a word of a hole");
    words[1].store(42, Ordering::Release);
    child.join()?;
    ensure_eq!(words[2].load(Ordering::Acquire), 43, "what the child wrote");
    Ok(())
}
