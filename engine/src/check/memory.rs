//! Seeing and tracking memory.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use crate::error::SysError;
use crate::sys::pagemap::{self, PageRegion, Query, category};
use crate::sys::probe;

use super::Answer;

const PAGE: u64 = 4096;
// Features of `linux/userfaultfd.h`.
const EVENT_FORK: u64 = 1 << 1;
const EVENT_REMAP: u64 = 1 << 2;
const EVENT_REMOVE: u64 = 1 << 3;
const EVENT_UNMAP: u64 = 1 << 6;
const WP_ASYNC: u64 = 1 << 15;
// A category of `PAGEMAP_SCAN` (`linux/fs.h`).
const PAGE_IS_GUARD: u64 = 1 << 8;

/// Bytes that lie in the middle of pages of their own.
fn own_pages() -> Vec<u8> {
    vec![1; 4 * PAGE as usize]
}

fn pagemap() -> Result<File, SysError> {
    File::open("/proc/self/pagemap").map_err(SysError::io("open(/proc/self/pagemap)"))
}

fn scan(categories: u64) -> Result<(), SysError> {
    let pages = own_pages();
    let start = pages.as_ptr().addr() as u64 & !(PAGE - 1);
    let query = Query { inverted: 0, all_of: 0, any_of: categories, tell: categories };
    pagemap::scan(pagemap()?, start, start + PAGE, query, &mut [PageRegion::default()]).map(drop)
}

pub(super) fn pagemap_readable() -> Answer {
    entry(&own_pages()).map(drop).into()
}

/// The pagemap entry of a page in the middle.
fn entry(pages: &[u8]) -> Result<u64, SysError> {
    let address = pages.as_ptr().addr() as u64 + 2 * PAGE;
    let mut bytes = [0; 8];
    let read = pagemap()?.read_exact_at(&mut bytes, address / PAGE * 8);
    read.map_err(SysError::io("pread(/proc/self/pagemap)"))?;
    Ok(u64::from_ne_bytes(bytes))
}

pub(super) fn pagemap_scan() -> Answer {
    scan(category::PRESENT).into()
}

pub(super) fn guard_pages() -> Answer {
    scan(PAGE_IS_GUARD).into()
}

pub(super) fn map_files() -> Answer {
    let read = || {
        let entries =
            std::fs::read_dir("/proc/self/map_files").map_err(SysError::io("open(/proc/self/map_files)"))?;
        for entry in entries {
            let entry = entry.map_err(SysError::io("getdents(/proc/self/map_files)"))?;
            File::open(entry.path()).map_err(SysError::io("open(/proc/self/map_files/RANGE)"))?;
        }
        Ok(())
    };
    read().into()
}

pub(super) fn userfaultfd() -> Answer {
    probe::userfaultfd_features().map(drop).into()
}

pub(super) fn userfaultfd_events() -> Answer {
    let needed = EVENT_FORK | EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP;
    match probe::userfaultfd_features() {
        Ok(features) if features & needed == needed => Answer::Yes,
        Ok(features) => Answer::No(format!("userfaultfd offers only the features {features:#x}")),
        Err(e) => Answer::No(e.to_string()),
    }
}

/// Soft-dirty bits, or scans with asynchronous write protection, which do the same.
pub(super) fn dirty_tracking() -> Answer {
    match soft_dirty() {
        Ok(true) => return Answer::Yes,
        Ok(false) => {}
        Err(e) => log::debug!("soft-dirty bits: {e}"),
    }
    let by_faults = probe::userfaultfd_features().is_ok_and(|features| features & WP_ASYNC != 0);
    match scan(category::PRESENT) {
        Ok(()) if by_faults => Answer::Note(
            "no soft-dirty bits; PAGEMAP_SCAN with asynchronous write protection instead".to_owned(),
        ),
        _ => Answer::No(
            "neither soft-dirty bits nor PAGEMAP_SCAN with asynchronous write protection".to_owned(),
        ),
    }
}

/// Clears the bits, writes to one page, and looks at that one.
fn soft_dirty() -> Result<bool, SysError> {
    const SOFT_DIRTY: u64 = 1 << 55;
    let mut pages = own_pages();
    let clear = || {
        let file = File::options().write(true).open("/proc/self/clear_refs");
        file.and_then(|mut file| file.write_all(b"4")).map_err(SysError::io("write(/proc/self/clear_refs)"))
    };
    clear()?;
    let before = entry(&pages)? & SOFT_DIRTY != 0;
    for byte in &mut pages {
        *byte = std::hint::black_box(*byte).wrapping_add(1);
    }
    let after = entry(&pages)? & SOFT_DIRTY != 0;
    Ok(!before && after)
}

pub(super) fn aio_remap() -> Answer {
    probe::aio_remap().into()
}
