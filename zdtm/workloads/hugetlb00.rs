//! Memory of hugetlb pages, private, shared and as a memory file, keeps its pages, contents and holes.

use std::fs::File;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, mmap_anonymous};
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const HUGE: usize = 2 << 20;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = File::from(memfd_create("huge", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)?);
    file.set_len(2 * HUGE as u64)?;
    let mut mappings = vec![
        anonymous(MapFlags::MAP_PRIVATE)?,
        anonymous(MapFlags::MAP_SHARED)?,
        Mapping::file(&file, 2 * HUGE, READ_WRITE, MapFlags::MAP_SHARED)?,
    ];
    for (seed, mapping) in (1..).zip(&mut mappings) {
        mapping.part(HUGE + PAGE, PAGE).bytes_mut().copy_from_slice(&pattern(seed, PAGE));
    }
    cx.barrier()?;
    for (seed, mapping) in (1..).zip(&mappings) {
        check_pattern(mapping.part(HUGE + PAGE, PAGE).bytes(), seed, "contents")?;
        ensure!(is_huge(*mapping)?, "mapping {seed} has other pages");
        ensure_eq!(mapping.bytes()[0], 0, "a page that was never touched");
    }
    Ok(())
}

fn anonymous(sharing: MapFlags) -> Result<Mapping, Failure> {
    let length = std::num::NonZeroUsize::new(2 * HUGE).ok_or_else(|| Failure::new("an empty mapping"))?;
    let flags = sharing | MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, length, READ_WRITE, flags) }?;
    Ok(Mapping { start, length: length.get() })
}

fn is_huge(mapping: Mapping) -> Result<bool, Failure> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{:x}-", mapping.address());
    let size = smaps
        .lines()
        .skip_while(|line| !line.starts_with(&start))
        .find(|line| line.starts_with("KernelPageSize"));
    Ok(size.is_some_and(|line| line.contains("2048 kB")))
}
