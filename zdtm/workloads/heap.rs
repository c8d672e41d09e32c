//! The heap keeps its contents and its break, and can grow and shrink.

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const BLOCKS: u64 = 200;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|seed| pattern(seed, 1000 + seed as usize)).collect();
    let before = grow(0)?;
    cx.barrier()?;
    ensure_eq!(grow(0)?, before, "the break");
    for (seed, block) in (0..).zip(&blocks) {
        check_pattern(block, seed, &format!("block {seed}"))?;
    }
    let place = grow(1 << 20)?;
    ensure!(place >= before, "the break went back");
    let middle = std::ptr::with_exposed_provenance_mut::<u8>(place + (1 << 19));
    // SAFETY: the byte lies in the memory that was just added.
    unsafe { middle.write_volatile(1) };
    grow(-(1 << 20))?;
    Ok(())
}

/// Moves the break; returns the one before.
fn grow(by: isize) -> Result<usize, Failure> {
    // SAFETY: only memory that this workload itself added is given back.
    let old = unsafe { libc::sbrk(by) };
    ensure!(old.addr() != usize::MAX, "sbrk: {}", Errno::last());
    Ok(old.expose_provenance())
}
