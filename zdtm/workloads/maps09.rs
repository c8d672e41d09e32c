//! Thousands of pages with holes in many patterns: what was written is there, what was never touched takes no memory.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, mmap_anonymous};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const PAGES: usize = 4096;
/// Which pages are written, by number.
const PATTERNS: [fn(usize) -> bool; 8] = [
    |_| true,
    |page| page.is_multiple_of(2),
    |page| !page.is_multiple_of(2),
    |page| !page.is_multiple_of(3),
    |page| page % 512 == 511,
    |page| (page / 256).is_multiple_of(2),
    |page| page == 0 || page == PAGES - 1,
    // Bits of a product look like chance.
    |page| (page.wrapping_mul(0x9e37_79b9) >> 13).is_multiple_of(4),
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut areas = Vec::new();
    for sharing in [MapFlags::MAP_PRIVATE, MapFlags::MAP_SHARED] {
        for written in PATTERNS {
            let area = anonymous(sharing)?;
            for page in (0..PAGES).filter(|page| written(*page)) {
                write(area, page);
            }
            areas.push((area, written, sharing));
        }
    }
    // Pages that were written and given up are holes again.
    let given_up = anonymous(MapFlags::MAP_PRIVATE)?;
    for page in 0..PAGES {
        write(given_up, page);
    }
    for page in (0..PAGES).step_by(8) {
        let start = given_up.part(page * PAGE, PAGE).start.as_ptr();
        // SAFETY: nobody expects the contents to stay.
        Errno::result(unsafe { libc::madvise(start, 3 * PAGE, libc::MADV_DONTNEED) })?;
    }
    areas.push((given_up, |page| page % 8 > 2, MapFlags::MAP_PRIVATE));

    cx.barrier()?;
    for (number, (area, written, sharing)) in areas.into_iter().enumerate() {
        // Looked at before the contents are, which brings pages in.
        let present = present(area)?;
        for (page, is_present) in present.into_iter().enumerate().take(PAGES) {
            let what = format!("page {page} of area {number}");
            let shared = sharing == MapFlags::MAP_SHARED;
            ensure!(shared || written(page) || !is_present, "{what} was a hole");
            let bytes = area.part(page * PAGE, PAGE);
            let expected = if written(page) { mark(page) } else { 0 };
            ensure_eq!([bytes.bytes()[0], bytes.bytes()[PAGE - 1]], [expected; 2], what);
        }
    }
    Ok(())
}

fn anonymous(sharing: MapFlags) -> Result<Mapping, Failure> {
    let length = PAGES * PAGE;
    let size = NonZeroUsize::new(length).ok_or_else(|| Failure::new("an empty mapping"))?;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, size, READ_WRITE, sharing) }?;
    // SAFETY: the advice only concerns the size of pages. It fails where there are no huge ones, which is as good.
    unsafe { libc::madvise(start.as_ptr(), length, libc::MADV_NOHUGEPAGE) };
    Ok(Mapping { start, length })
}

fn write(area: Mapping, page: usize) {
    let mut page_of = area.part(page * PAGE, PAGE);
    page_of.bytes_mut()[0] = mark(page);
    page_of.bytes_mut()[PAGE - 1] = mark(page);
}

fn mark(page: usize) -> u8 {
    (page % 251) as u8 + 1
}

/// Which pages are in memory or swapped out: bits 63 and 62 of pagemap.
fn present(area: Mapping) -> Result<Vec<bool>, Failure> {
    let mut words = vec![0; PAGES * 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut words, (area.address() / PAGE * 8) as u64)?;
    Ok(words.chunks_exact(8).map(|word| word[7] & 0xc0 != 0).collect())
}
