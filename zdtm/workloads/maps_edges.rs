//! Mappings at the lowest and at the highest address that a process may have keep their place and their contents.

use std::num::NonZeroUsize;

use nix::sys::mman::{MapFlags, mmap_anonymous};
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

/// `TASK_SIZE` with four levels of page tables (arch/x86/include/asm/page_64_types.h): the last page is not to be had.
const END: usize = 0x7fff_ffff_f000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let lowest: usize = std::fs::read_to_string("/proc/sys/vm/mmap_min_addr")?.trim().parse()?;
    // The page at 0 is no place for a slice.
    let lowest = lowest.max(PAGE);
    let mut edges = [at(lowest)?, at(END - PAGE)?];
    for (seed, edge) in (1..).zip(&mut edges) {
        edge.bytes_mut().copy_from_slice(&pattern(seed, PAGE));
    }
    cx.barrier()?;
    for (seed, edge) in (1..).zip(&mut edges) {
        check_pattern(edge.bytes(), seed, &format!("the page at {:#x}", edge.address()))?;
        edge.bytes_mut()[0] ^= 1;
    }
    Ok(())
}

fn at(address: usize) -> Result<Mapping, Failure> {
    let place = NonZeroUsize::new(address);
    let length = NonZeroUsize::new(PAGE).ok_or_else(|| Failure::new("an empty mapping"))?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
    // SAFETY: nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(place, length, READ_WRITE, flags) }?;
    Ok(Mapping { start, length: PAGE })
}
