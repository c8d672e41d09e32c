//! `PAGEMAP_SCAN` (Linux 6.7): which pages of a range hold what.

use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;

use crate::error::SysError;

/// `_IOWR('f', 16, struct pm_scan_arg)` from `include/uapi/linux/fs.h`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Categories of a page, from `include/uapi/linux/fs.h`.
pub mod category {
    /// The page belongs to a file or to shared memory.
    pub const FILE: u64 = 1 << 2;
    /// The page is in memory.
    pub const PRESENT: u64 = 1 << 3;
    /// The page is in swap.
    pub const SWAPPED: u64 = 1 << 4;
    /// The page is the kernel's page of zeros.
    pub const PFNZERO: u64 = 1 << 5;
    /// The page is part of a guard region (Linux 6.15).
    pub const GUARD: u64 = 1 << 8;
}

/// A run of pages that look alike: `struct page_region`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PageRegion {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What its pages are, of the categories asked for.
    pub categories: u64,
}

/// Which pages to report.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Categories whose meaning is turned round before comparing.
    pub inverted: u64,
    /// All of these must hold …
    pub all_of: u64,
    /// … and at least one of these.
    pub any_of: u64,
    /// What to tell about a page.
    pub tell: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Scans `[start, end)` of the process whose `/proc/PID/pagemap` this is; the number of regions written, and where the
/// walk ended (before `end` when `regions` was full).
pub fn scan(
    pagemap: impl AsFd,
    start: u64,
    end: u64,
    query: Query,
    regions: &mut [PageRegion],
) -> Result<(usize, u64), SysError> {
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: regions.as_mut_ptr().expose_provenance() as u64,
        vec_len: regions.len() as u64,
        max_pages: 0,
        category_inverted: query.inverted,
        category_mask: query.all_of,
        category_anyof_mask: query.any_of,
        return_mask: query.tell,
    };
    // SAFETY: the kernel writes at most `vec_len` regions to `vec`, which lives as long as the call.
    let found = unsafe { libc::ioctl(pagemap.as_fd().as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
    match Errno::result(found) {
        Ok(found) => Ok((found as usize, arg.walk_end)),
        Err(errno) => Err(SysError { call: "ioctl(PAGEMAP_SCAN)", errno }),
    }
}

/// Scans a whole range; `regions` is room for answers on the way.
pub fn scan_all(
    pagemap: impl AsFd,
    start: u64,
    end: u64,
    query: Query,
    regions: &mut [PageRegion],
    add: &mut dyn FnMut(PageRegion),
) -> Result<(), SysError> {
    let mut at = start;
    while at < end {
        let (found, walked) = scan(&pagemap, at, end, query, regions)?;
        regions.iter().take(found).copied().for_each(&mut *add);
        if walked <= at {
            break;
        }
        at = walked;
    }
    Ok(())
}

const _: () = assert!(size_of::<ScanArg>() == 0x60);
