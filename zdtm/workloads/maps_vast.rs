//! Terabytes that are reserved and not used, and shared memory larger than the machine's, with a few pages each, cost nothing
//! and keep those pages; a mapping whose pages may be merged with others like them stays one.

use std::num::NonZeroUsize;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const TEBIBYTE: usize = 1 << 40;
/// What is reserved: as garbage collectors and sanitizers do.
const RESERVED: usize = 8 * TEBIBYTE;
/// More than this machine, or any that runs tests, has.
const SHARED: usize = TEBIBYTE;
/// Memory that the whole process may take up, in kilobytes.
const MOST: u64 = 64 << 10;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let reserved = vast(RESERVED, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)?;
    let used = reserved.part(RESERVED / 2, PAGE);
    used.protect(READ_WRITE)?;
    let shared = vast(SHARED, READ_WRITE, MapFlags::MAP_SHARED)?;
    let places = [0, SHARED / 3 / PAGE * PAGE, SHARED - PAGE].map(|offset| shared.part(offset, PAGE));
    for (seed, mut page) in (1..).zip(places.into_iter().chain([used])) {
        page.bytes_mut().copy_from_slice(&pattern(seed, PAGE));
    }
    let merged = Mapping::apart(4 * PAGE)?;
    // SAFETY: changes no contents.
    let merges = match unsafe { madvise(merged.start, merged.length, MmapAdvise::MADV_MERGEABLE) } {
        // The kernel has no KSM.
        Err(Errno::EINVAL) => false,
        advised => advised.map(|()| true)?,
    };
    let child = cx.child(move |cx| {
        cx.park()?;
        check_pattern(places[1].bytes(), 2, "a shared page, in the child")?;
        let mut last = places[2];
        last.bytes_mut()[0] ^= 1;
        Ok(())
    })?;

    cx.barrier()?;
    child.join()?;
    for (seed, page) in (1..).zip(places.into_iter().take(2)) {
        check_pattern(page.bytes(), seed, "a shared page")?;
    }
    ensure_eq!(places[2].bytes()[0], pattern(3, PAGE)[0] ^ 1, "what the child wrote to shared memory");
    check_pattern(used.bytes(), 4, "the page in use of what is reserved")?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|size| size.trim().trim_end_matches(" kB").parse().ok());
    ensure!(resident.is_some_and(|size: u64| size < MOST), "it takes up {resident:?} kB");
    ensure_eq!(is_mergeable(merged)?, merges, "whether pages may be merged");
    let beside = reserved.part(RESERVED / 4, PAGE);
    ensure!(beside.protect(READ_WRITE).is_ok(), "what is reserved cannot be used any more");
    Ok(())
}

fn vast(length: usize, prot: ProtFlags, flags: MapFlags) -> Result<Mapping, Failure> {
    let size = NonZeroUsize::new(length).ok_or_else(|| Failure::new("an empty mapping"))?;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, size, prot, flags | MapFlags::MAP_NORESERVE) }?;
    Ok(Mapping { start, length })
}

/// Whether `smaps` says so of a mapping.
fn is_mergeable(mapping: Mapping) -> Result<bool, Failure> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{:x}-", mapping.address());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"));
    Ok(flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "mg")))
}
