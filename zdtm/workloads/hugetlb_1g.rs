//! A hugetlb page of a gigabyte keeps its size and its contents.

use std::num::NonZeroUsize;

use nix::sys::mman::{MapFlags, mmap_anonymous};
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const HUGE: usize = 1 << 30;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let length = NonZeroUsize::new(HUGE).ok_or_else(|| Failure::new("an empty mapping"))?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_1GB;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, length, READ_WRITE, flags) }?;
    let mapping = Mapping { start, length: HUGE };
    let last = HUGE - PAGE;
    for (seed, offset) in [(1, 0), (2, last)] {
        mapping.part(offset, PAGE).bytes_mut().copy_from_slice(&pattern(seed, PAGE));
    }
    cx.barrier()?;
    for (seed, offset) in [(1, 0), (2, last)] {
        check_pattern(mapping.part(offset, PAGE).bytes(), seed, "contents")?;
    }
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{:x}-", mapping.address());
    let size = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let size = size.into_iter().find(|line| line.starts_with("KernelPageSize"));
    ensure!(size.is_some_and(|line| line.contains("1048576 kB")), "its page is another: {size:?}");
    Ok(())
}
