//! Processes that share anonymous memory in several ways, and change it all the time, lose no change of anybody.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags, mmap_anonymous, mremap, munmap};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const PAGES: usize = 32;
const LENGTH: usize = PAGES * PAGE;
/// Words of a page: everybody's sum, then a lane for each writer.
const SUM: usize = 0;
const LANE: usize = 1;
const WRITERS: usize = 4;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let shared = shared_memory()?;
    let other = shared_memory()?;
    let whole = cx.child(|cx| {
        // It has a child of its own, which writes too.
        let grandchild = cx.child(|cx| write(cx, shared, 3, 0..PAGES))?;
        write(cx, shared, 0, 0..PAGES)?;
        grandchild.join()
    })?;
    let half = cx.child(|cx| {
        // SAFETY: this process does not touch that half again.
        unsafe { munmap(shared.part(LENGTH / 2, LENGTH / 2).start, LENGTH / 2) }?;
        write(cx, shared, 1, 0..PAGES / 2)
    })?;
    let moved = cx.child(|cx| {
        let second = alias(shared)?;
        let first = shared;
        first.protect(ProtFlags::PROT_READ)?;
        write(cx, second, 2, 0..PAGES)?;
        let same = (0..PAGES).all(|page| load(first, page, LANE + 2) == load(second, page, LANE + 2));
        ensure!(same, "two mappings of the same memory differ");
        Ok(())
    })?;
    let watcher = cx.child(|cx| {
        shared.protect(ProtFlags::PROT_READ)?;
        cx.post("watching")?;
        let mut last = [0; WRITERS];
        while !cx.passed() {
            for (writer, last) in last.iter_mut().enumerate() {
                let now = load(shared, 0, LANE + writer);
                ensure!(now >= *last, "writer {writer} went from {last} back to {now}");
                *last = now;
            }
            word(other, PAGES - 1, SUM).fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    })?;
    for writer in 0..WRITERS {
        cx.wait_for(&format!("writer-{writer}"))?;
    }
    cx.wait_for("watching")?;

    cx.barrier()?;
    for child in [whole, half, moved, watcher] {
        child.join()?;
    }
    for page in 0..PAGES {
        let lanes = (0..WRITERS).map(|writer| load(shared, page, LANE + writer)).sum::<u64>();
        ensure_eq!(load(shared, page, SUM), lanes, format!("what all added to page {page}"));
    }
    ensure!(load(other, PAGES - 1, SUM) > 0, "the other memory was not changed");
    Ok(())
}

/// Adds to its lane and to the sum of each page, and remembers in memory of its own how often it did.
fn write(cx: &Context, memory: Mapping, writer: usize, pages: std::ops::Range<usize>) -> Verdict {
    let mut rounds = 0_u64;
    while !cx.passed() {
        for page in pages.clone() {
            let before = word(memory, page, LANE + writer).fetch_add(1, Ordering::SeqCst);
            ensure_eq!(before, rounds, format!("rounds of writer {writer} in page {page}"));
            word(memory, page, SUM).fetch_add(1, Ordering::SeqCst);
        }
        rounds += 1;
        if rounds == 10 {
            cx.post(&format!("writer-{writer}"))?;
        }
    }
    for page in pages {
        ensure_eq!(
            load(memory, page, LANE + writer),
            rounds,
            format!("writer {writer} at the end, page {page}")
        );
    }
    Ok(())
}

fn load(memory: Mapping, page: usize, number: usize) -> u64 {
    word(memory, page, number).load(Ordering::SeqCst)
}

fn word(memory: Mapping, page: usize, number: usize) -> &'static AtomicU64 {
    let place = memory.part(page * PAGE + number * 8, 8).start.cast::<AtomicU64>();
    // SAFETY: the word lies within memory that stays mapped as long as it is used, and is only touched atomically.
    unsafe { place.as_ref() }
}

fn shared_memory() -> Result<Mapping, Failure> {
    let size = NonZeroUsize::new(LENGTH).ok_or_else(|| Failure::new("an empty mapping"))?;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, size, READ_WRITE, MapFlags::MAP_SHARED) }?;
    Ok(Mapping { start, length: LENGTH })
}

/// A second mapping of the same memory: mremap(2) makes one where the old length is 0.
fn alias(mapping: Mapping) -> Result<Mapping, Failure> {
    // SAFETY: the kernel picks the address, and the first mapping stays.
    let start = unsafe { mremap(mapping.start, 0, LENGTH, MRemapFlags::MREMAP_MAYMOVE, None) }?;
    Ok(Mapping { start, length: LENGTH })
}
