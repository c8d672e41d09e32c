//! Contents of private memory: which pages a process owns, and their places in images.
//!
//! Pages that were never touched, and pages that still are the kernel's page of zeros, are neither stored nor touched.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use proto::messages::{PagemapEntry, PagemapHead};

use crate::error::{Problem, SysError};
use crate::image::NewImages;
use crate::side_by_side;
use crate::sys::pagemap::{self, PageRegion, Query, category};

/// Size of a page.
pub const PAGE: u64 = 4096;
/// `PE_PRESENT` of `pagemap_entry.flags`: the pages are in the pages file.
pub const PE_PRESENT: u32 = 4;

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::len_without_is_empty, reason = "a run has pages")]
pub struct Run {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// Where their bytes are in the pages file.
    pub offset: u64,
}

impl Run {
    /// How many bytes they are.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// A range of addresses whose pages may be the process's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// Whether all of its pages are taken.
    pub whole: bool,
    /// Whether nothing that takes time to be scanned lies between the one before and it.
    pub follows: bool,
}

/// What a scan found, in ascending order.
#[derive(Debug, Default)]
pub struct Found {
    /// Pages that belong to the process alone.
    pub runs: Vec<Run>,
    /// Guard regions (`MADV_GUARD_INSTALL`): start and end of each.
    pub guards: Vec<(u64, u64)>,
}

/// Looks at the pages in some ranges, in ascending order; in parts of them side by side.
pub fn find(pagemap: &File, ranges: &[Range]) -> Result<Found, SysError> {
    let mut all = Found::default();
    for found in side_by_side::map(&parts(ranges), |ranges| find_in(pagemap, ranges)) {
        let Found { runs, guards } = found?;
        for run in runs {
            push(&mut all.runs, run);
        }
        for guard in guards {
            add_guard(&mut all.guards, guard);
        }
    }
    Ok(all)
}

/// Cuts ranges into parts of the same size, so many that several threads are worth it; ranges that are small are one part.
fn parts(ranges: &[Range]) -> Vec<Vec<Range>> {
    const SMALLEST: u64 = 1 << 20;
    const PARTS: u64 = 32;
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if total < PARTS * SMALLEST {
        return vec![ranges.to_vec()];
    }
    let size = total.div_ceil(PARTS).next_multiple_of(SMALLEST);
    let mut parts = vec![Vec::new()];
    let mut room = size;
    for range in ranges {
        let mut start = range.start;
        while start < range.end {
            if room == 0 {
                parts.push(Vec::new());
                room = size;
            }
            let end = range.end.min(start.saturating_add(room));
            room -= end - start;
            if let Some(part) = parts.last_mut() {
                part.push(Range { start, end, ..*range });
            }
            start = end;
        }
    }
    parts
}

fn find_in(pagemap: &File, ranges: &[Range]) -> Result<Found, SysError> {
    let mut found = Found::default();
    let mut rest = ranges;
    let mut regions = vec![PageRegion::default(); room_for(ranges)];
    while let Some((first, others)) = rest.split_first() {
        if first.whole {
            let Range { start, end, .. } = *first;
            push(&mut found.runs, Run { start, end, offset: 0 });
            rest = others;
            continue;
        }
        // Neighbors are scanned as one: with many small mappings the calls cost more than the work.
        let is_next = |pair: &[Range]| matches!(pair, [a, b] if (a.end == b.start || b.follows) && !b.whole);
        let together = 1 + rest.windows(2).take_while(|pair| is_next(pair)).count();
        let (now, later) = rest.split_at(together);
        let mut ranges = now.iter().peekable();
        let mut add = |region: PageRegion| {
            let mut at = region.start;
            while at < region.end {
                while ranges.next_if(|range| range.end <= at).is_some() {}
                let Some(range) = ranges.peek().filter(|range| range.start < region.end) else { break };
                let (start, end) = (at.max(range.start), region.end.min(range.end));
                if region.categories & category::GUARD == 0 {
                    push(&mut found.runs, Run { start, end, offset: 0 });
                } else {
                    add_guard(&mut found.guards, (start, end));
                }
                at = end;
            }
        };
        scan(pagemap, now, &mut regions, &mut add)?;
        rest = later;
    }
    Ok(found)
}

/// How many answers are let in at once: there is one for each page at most, and the kernel allocates as much.
fn room_for(ranges: &[Range]) -> usize {
    const MOST: u64 = 512;
    const LEAST: u64 = 32;
    let pages: u64 = ranges.iter().map(|range| (range.end - range.start) / PAGE).sum();
    pages.clamp(LEAST, MOST) as usize
}

/// Scans ranges, with what lies between them where that can be done by one call.
fn scan(
    pagemap: &File,
    ranges: &[Range],
    regions: &mut [PageRegion],
    add: &mut dyn FnMut(PageRegion),
) -> Result<(), SysError> {
    let not = category::FILE | category::PFNZERO;
    let here = category::PRESENT | category::SWAPPED;
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(()) };
    for tell in [category::GUARD, 0] {
        let query = Query { inverted: not, all_of: not, any_of: here, tell };
        match pagemap::scan_all(pagemap.as_fd(), first.start, last.end, query, regions, add) {
            // Kernels before 6.15 do not know guard regions.
            Err(SysError { errno: Errno::EINVAL, .. }) => {}
            // Kernels before 6.7.
            Err(SysError { errno: Errno::ENOTTY, .. }) => break,
            done => return done,
        }
    }
    ranges.iter().try_for_each(|range| read_pagemap(pagemap, range.start, range.end, add))
}

/// Reads `/proc/PID/pagemap` entry by entry (`Documentation/admin-guide/mm/pagemap.rst`).
fn read_pagemap(
    pagemap: &File,
    start: u64,
    end: u64,
    add: &mut dyn FnMut(PageRegion),
) -> Result<(), SysError> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE_OR_SHARED: u64 = 1 << 61;
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut at = start;
    while at < end {
        let want = (((end - at) / PAGE) as usize * 8).min(buffer.len());
        let chunk = buffer.get_mut(..want).unwrap_or_default();
        pagemap.read_exact_at(chunk, at / PAGE * 8).map_err(SysError::io("read(/proc/PID/pagemap)"))?;
        for bytes in chunk.as_chunks().0 {
            let entry = u64::from_le_bytes(*bytes);
            if entry & (PRESENT | SWAPPED) != 0 && entry & FILE_OR_SHARED == 0 {
                add(PageRegion { start: at, end: at + PAGE, categories: 0 });
            }
            at += PAGE;
        }
    }
    Ok(())
}

/// Adds a run, to the last one if it continues it.
fn push(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Adds a guard region; one that was cut is one again.
fn add_guard(guards: &mut Vec<(u64, u64)>, (start, end): (u64, u64)) {
    match guards.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => guards.push((start, end)),
    }
}

/// How many pages a list of runs has.
pub fn count(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.len() / PAGE).sum()
}

/// Gives runs, in ascending order, their places in the pages file.
pub fn lay_out(runs: &mut [Run]) {
    let mut offset = 0;
    for run in runs {
        run.offset = offset;
        offset += run.len();
    }
}

/// Writes `pagemap-PID.img`.
pub fn write_map(images: &mut NewImages, pid: u64, pages_id: u32, runs: &[Run]) -> Result<(), Problem> {
    images.write_with(&proto::catalogue::PAGEMAP, pid, |writer| {
        writer.entry(&PagemapHead { pages_id })?;
        runs.iter().try_for_each(|run| writer.entry(&entry(run.start, run.len())))
    })
}

/// An entry of a pagemap for `len` bytes that are in the pages file.
pub fn entry(start: u64, len: u64) -> PagemapEntry {
    let pages = len / PAGE;
    PagemapEntry {
        vaddr: start,
        compat_nr_pages: pages as u32,
        in_parent: None,
        flags: Some(PE_PRESENT),
        nr_pages: Some(pages),
    }
}

/// How many bytes an entry of a pagemap stands for; none if that is no number.
pub fn bytes_of(entry: &PagemapEntry) -> Option<u64> {
    entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages.into()).checked_mul(PAGE)
}
