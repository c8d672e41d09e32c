//! Contents of private memory: which pages a process owns, and how they get into an image.
//!
//! The target writes its own pages into the image file, which costs one copy and needs no buffer. Where it cannot (pages
//! that it may not read, a limit on file sizes), we read them through `/proc/PID/mem`. Pages that were never touched, and
//! pages that still are the kernel's page of zeros, are neither stored nor touched.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use proto::messages::{PagemapEntry, PagemapHead};

use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::image::NewImages;
use crate::sys::pagemap::{self, PageRegion, Query, category};
use crate::tracee::agent::Agent;
use crate::tracee::batch::{Batch, CallId};
use crate::tracee::memory::Memory;

/// Size of a page.
pub const PAGE: u64 = 4096;
/// `PE_PRESENT` of `pagemap_entry.flags`: the pages are in the pages file.
pub const PE_PRESENT: u32 = 4;
/// Entries of one `pwritev` (`UIO_MAXIOV` is 1024; fewer, so that several calls fit a message).
const IOV_MAX: usize = 512;
/// Bytes of one batch: between two of them we look around.
const BATCH_BYTES: u64 = 64 << 20;

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// Whether the task itself can read them.
    pub readable: bool,
    /// Where their bytes are in the pages file.
    pub offset: u64,
}

impl Run {
    fn len(&self) -> u64 {
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
    /// Whether the task itself can read it.
    pub readable: bool,
    /// Whether all of its pages are taken.
    pub whole: bool,
}

/// What a scan found, in ascending order.
#[derive(Debug, Default)]
pub struct Found {
    /// Pages that belong to the process alone.
    pub runs: Vec<Run>,
    /// Guard regions (`MADV_GUARD_INSTALL`): start and end of each.
    pub guards: Vec<(u64, u64)>,
}

/// Looks at the pages in some ranges, in ascending order.
pub fn find(pagemap: &File, ranges: &[Range]) -> Result<Found, SysError> {
    let mut found = Found::default();
    let mut rest = ranges;
    let mut regions = vec![PageRegion::default(); 512];
    while let Some((first, others)) = rest.split_first() {
        if first.whole {
            let Range { start, end, readable, .. } = *first;
            push(&mut found.runs, Run { start, end, readable, offset: 0 });
            rest = others;
            continue;
        }
        // Neighbors are scanned as one: with many small mappings the calls cost more than the work.
        let is_next = |pair: &[Range]| matches!(pair, [a, b] if a.end == b.start && !b.whole);
        let together = 1 + rest.windows(2).take_while(|pair| is_next(pair)).count();
        let (now, later) = rest.split_at(together);
        let end = now.last().map_or(first.end, |last| last.end);
        let mut ranges = now.iter().peekable();
        let mut add = |region: PageRegion| {
            if region.categories & category::GUARD != 0 {
                found.guards.push((region.start, region.end));
                return;
            }
            let mut at = region.start;
            while at < region.end {
                while ranges.next_if(|range| range.end <= at).is_some() {}
                let Some(range) = ranges.peek() else { break };
                let until = region.end.min(range.end);
                push(&mut found.runs, Run { start: at, end: until, readable: range.readable, offset: 0 });
                at = until;
            }
        };
        scan(pagemap, first.start, end, &mut regions, &mut add)?;
        rest = later;
    }
    Ok(found)
}

fn scan(
    pagemap: &File,
    start: u64,
    end: u64,
    regions: &mut [PageRegion],
    add: &mut dyn FnMut(PageRegion),
) -> Result<(), SysError> {
    let not = category::FILE | category::PFNZERO;
    let here = category::PRESENT | category::SWAPPED;
    for tell in [category::GUARD, 0] {
        let query = Query { inverted: not, all_of: not, any_of: here, tell };
        match pagemap::scan_all(pagemap.as_fd(), start, end, query, regions, add) {
            // Kernels before 6.15 do not know guard regions.
            Err(SysError { errno: Errno::EINVAL, .. }) => {}
            // Kernels before 6.7.
            Err(SysError { errno: Errno::ENOTTY, .. }) => break,
            done => return done,
        }
    }
    read_pagemap(pagemap, start, end, add)
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
        Some(last) if last.end == run.start && last.readable == run.readable => last.end = run.end,
        _ => runs.push(run),
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
        let mut last: Option<Run> = None;
        for run in runs {
            match &mut last {
                // Neighbors of different protection are one run there.
                Some(last) if last.end == run.start => last.end = run.end,
                _ => {
                    last.map_or(Ok(()), |last| writer.entry(&entry(last.start, last.len())))?;
                    last = Some(*run);
                }
            }
        }
        last.map_or(Ok(()), |last| writer.entry(&entry(last.start, last.len())))
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

/// Writes runs to their places in the pages file. Between pieces, `step` is told how many bytes were written.
///
/// `target_may_write` is false when the target cannot write files of that size itself.
pub fn write(
    agent: &mut Agent,
    file: &File,
    runs: &[Run],
    target_may_write: bool,
    step: &mut dyn FnMut(u64) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut pieces = split(runs).peekable();
    let by_target = |run: &Run| target_may_write && run.readable;
    while let Some(first) = pieces.peek() {
        let wanted = by_target(first);
        let mut batch = Batch::new();
        let fd = batch.fd(file.as_fd());
        let mut calls: Vec<(CallId, Vec<Run>)> = Vec::new();
        let mut written = 0;
        while written < BATCH_BYTES && !batch.is_nearly_full(2, IOV_MAX * 16) {
            let mut vector: Vec<Run> = Vec::new();
            while let Some(run) = pieces.next_if(|run| {
                by_target(run) == wanted
                    && vector.len() < IOV_MAX
                    && vector.last().is_none_or(|last| last.offset + last.len() == run.offset)
                    && written + run.len() <= BATCH_BYTES
            }) {
                written += run.len();
                vector.push(run);
            }
            let Some(start) = vector.first() else { break };
            let words: Vec<u64> = vector.iter().flat_map(|run| [run.start, run.len()]).collect();
            let iov = batch.input(words.as_slice());
            let args = args![fd, iov, vector.len(), start.offset, 0];
            calls.push((batch.try_call("pwritev", libc::SYS_pwritev, args), vector));
        }
        if wanted {
            batch.call("close", libc::SYS_close, args![fd]);
            let replies = agent.run(&batch).while_trying_to("write pages")?;
            for (call, vector) in &calls {
                let done = match replies.result(*call) {
                    Ok(done) => done as u64,
                    // A page that even its owner cannot read, as with protection keys.
                    Err(SysError { errno: Errno::EFAULT, .. }) => 0,
                    Err(e) => return Err(Problem::new(e).step("write pages")),
                };
                write_rest(agent.memory(), file, vector, done)?;
            }
        } else {
            for (_, vector) in &calls {
                write_rest(agent.memory(), file, vector, 0)?;
            }
        }
        step(written)?;
    }
    Ok(())
}

/// Writes ourselves what a target did not, after the first `done` bytes. If there was a reason, we meet it too.
fn write_rest(memory: &Memory, file: &File, runs: &[Run], mut done: u64) -> Result<(), Problem> {
    for run in runs {
        let skip = done.min(run.len());
        done -= skip;
        if skip < run.len() {
            let rest = Run { start: run.start + skip, offset: run.offset + skip, ..*run };
            write_by_us(memory, file, rest)?;
        }
    }
    Ok(())
}

/// Reads all runs, one behind the other.
pub fn read(memory: &Memory, runs: &[Run]) -> Result<Vec<u8>, Problem> {
    /// The kernel takes `UIO_MAXIOV` at once.
    const AT_ONCE: usize = 1024;
    let step = "read pages";
    let mut bytes = vec![0; runs.iter().map(Run::len).sum::<u64>() as usize];
    let mut rest = bytes.as_mut_slice();
    let mut runs = runs.iter().peekable();
    while let Some(first) = runs.peek() {
        let readable = first.readable;
        let mut ranges = Vec::new();
        while let Some(run) = runs.next_if(|run| run.readable == readable && ranges.len() < AT_ONCE) {
            ranges.push((run.start, run.len() as usize));
        }
        let len = ranges.iter().map(|(_, len)| len).sum();
        let (now, later) = rest.split_at_mut(len);
        rest = later;
        // Not even its owner can read all, as with protection keys.
        let is_read = readable && memory.read_scattered(&ranges, now).is_ok_and(|read| read == len);
        let mut now = now;
        for (start, len) in ranges.into_iter().filter(|_| !is_read) {
            let (run, others) = now.split_at_mut(len);
            memory.read(start, run).while_trying_to(step)?;
            now = others;
        }
    }
    Ok(bytes)
}

fn write_by_us(memory: &Memory, file: &File, run: Run) -> Result<(), Problem> {
    let mut buffer = vec![0; (256 * 1024).min(run.len() as usize)];
    let mut at = 0;
    while at < run.len() {
        let len = ((run.len() - at) as usize).min(buffer.len());
        let chunk = buffer.get_mut(..len).unwrap_or_default();
        memory.read(run.start + at, chunk).while_trying_to("read pages")?;
        let written = file.write_all_at(chunk, run.offset + at);
        written.map_err(SysError::io("write")).while_trying_to("write pages")?;
        at += len as u64;
    }
    Ok(())
}

/// Runs cut to what one batch can take.
fn split(runs: &[Run]) -> impl Iterator<Item = Run> {
    runs.iter().flat_map(|run| {
        (0..run.len().div_ceil(BATCH_BYTES)).map(|i| {
            let start = run.start + i * BATCH_BYTES;
            let end = run.end.min(start + BATCH_BYTES);
            Run { start, end, readable: run.readable, offset: run.offset + i * BATCH_BYTES }
        })
    })
}
