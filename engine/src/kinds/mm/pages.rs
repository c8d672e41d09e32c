//! Contents of private memory: which pages a process owns, how they get into an image, and how they come back.
//!
//! The target writes its own pages into the image file, which costs one copy and needs no buffer. Where it cannot (pages
//! that it may not read, a limit on file sizes), we read them through `/proc/PID/mem`. Pages that were never touched, and
//! pages that still are the kernel's page of zeros, are neither stored nor touched.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use proto::messages::{PagemapEntry, PagemapHead};

use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::image::NewImages;
use crate::procfs::smaps::SmapsVma;
use crate::sys::pagemap::{self, PageRegion, Query, category};
use crate::tracee::agent::{Agent, AgentError};
use crate::tracee::batch::{Batch, CallId};
use crate::tracee::memory::Memory;

/// Size of a page.
pub const PAGE: u64 = 4096;
/// `PE_PRESENT` of `pagemap_entry.flags`: the pages are in the pages file.
pub const PE_PRESENT: u32 = 4;
/// Entries of one `writev` or `preadv` (`UIO_MAXIOV` is 1024; fewer, so that several calls fit a message).
const IOV_MAX: usize = 512;
/// Bytes of one `writev`: the kernel cuts longer ones at 2 GiB less a page.
const MAX_CALL_BYTES: u64 = 1 << 30;

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// Whether the task itself can read them.
    pub readable: bool,
}

/// Finds the pages of a mapping that belong to the process alone.
pub fn own_pages(pagemap: &File, vma: &SmapsVma, runs: &mut Vec<Run>) -> Result<(), SysError> {
    let (start, end) = (vma.vma.start, vma.vma.end);
    let readable = vma.vma.perms.read;
    match scan(pagemap, start, end, readable, runs) {
        // Kernels before 6.7.
        Err(SysError { errno: Errno::ENOTTY | Errno::EINVAL, .. }) => {
            read_pagemap(pagemap, start, end, readable, runs)
        }
        done => done,
    }
}

/// Takes all pages of a mapping.
pub fn all_pages(vma: &SmapsVma, runs: &mut Vec<Run>) {
    push(runs, Run { start: vma.vma.start, end: vma.vma.end, readable: vma.vma.perms.read });
}

fn scan(pagemap: &File, start: u64, end: u64, readable: bool, runs: &mut Vec<Run>) -> Result<(), SysError> {
    let not = category::FILE | category::PFNZERO;
    let here = category::PRESENT | category::SWAPPED;
    let query = Query { inverted: not, all_of: not, any_of: here, tell: category::FILE };
    let mut regions = [PageRegion::default(); 512];
    let mut at = start;
    while at < end {
        let (found, walked) = pagemap::scan(pagemap.as_fd(), at, end, query, &mut regions)?;
        for region in regions.iter().take(found) {
            push(runs, Run { start: region.start, end: region.end, readable });
        }
        if walked <= at {
            break;
        }
        at = walked;
    }
    Ok(())
}

/// Reads `/proc/PID/pagemap` entry by entry (`Documentation/admin-guide/mm/pagemap.rst`).
fn read_pagemap(
    pagemap: &File,
    start: u64,
    end: u64,
    readable: bool,
    runs: &mut Vec<Run>,
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
                push(runs, Run { start: at, end: at + PAGE, readable });
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
    runs.iter().map(|run| (run.end - run.start) / PAGE).sum()
}

/// Writes `pagemap-PID.img` and `pages-ID.img`.
///
/// `target_may_write` is false when the target cannot write files of that size itself.
pub fn dump(
    images: &mut NewImages,
    agent: &mut Agent,
    pid: u64,
    pages_id: u32,
    runs: &[Run],
    target_may_write: bool,
) -> Result<(), Problem> {
    images.write_with(&proto::catalogue::PAGEMAP, pid, |writer| {
        writer.entry(&PagemapHead { pages_id })?;
        for entry in merged(runs) {
            writer.entry(&entry)?;
        }
        Ok(())
    })?;
    let mut file = images.create_file(&proto::catalogue::PAGES.file_name(pages_id.into()))?;
    let mut rest = runs;
    while let Some(first) = rest.first() {
        let by_target = target_may_write && first.readable;
        let same = rest.iter().take_while(|run| (target_may_write && run.readable) == by_target).count();
        let (now, later) = rest.split_at(same);
        if by_target {
            write_by_target(agent, &file, now)?;
        } else {
            write_by_us(agent.memory(), &mut file, now)?;
        }
        rest = later;
    }
    Ok(())
}

/// Entries of a pagemap: neighbors of different protection are one run there.
fn merged(runs: &[Run]) -> Vec<PagemapEntry> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        push(&mut merged, Run { readable: true, ..*run });
    }
    let entry = |run: &Run| {
        let pages = (run.end - run.start) / PAGE;
        PagemapEntry {
            vaddr: run.start,
            compat_nr_pages: pages as u32,
            in_parent: None,
            flags: Some(PE_PRESENT),
            nr_pages: Some(pages),
        }
    };
    merged.iter().map(entry).collect()
}

fn write_by_target(agent: &mut Agent, file: &File, runs: &[Run]) -> Result<(), Problem> {
    let mut pieces = split(runs).peekable();
    while pieces.peek().is_some() {
        let mut batch = Batch::new();
        let fd = batch.fd(file.as_fd());
        let mut calls: Vec<(CallId, u64)> = Vec::new();
        while pieces.peek().is_some() && !batch.is_nearly_full(2, IOV_MAX * 16) {
            let mut iov = Vec::new();
            let mut bytes = 0;
            while let Some(run) = pieces
                .next_if(|run| iov.len() < IOV_MAX * 2 && bytes + (run.end - run.start) <= MAX_CALL_BYTES)
            {
                iov.extend([run.start, run.end - run.start]);
                bytes += run.end - run.start;
            }
            let vector = batch.input(iov.as_slice());
            calls.push((batch.call("writev", libc::SYS_writev, args![fd, vector, iov.len() / 2]), bytes));
        }
        batch.call("close", libc::SYS_close, args![fd]);
        let replies = agent.run(&batch).while_trying_to("write pages")?;
        for (call, bytes) in calls {
            let written = replies.result(call)? as u64;
            if written != bytes {
                finish_short_write(agent.memory(), file, runs)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A write that ended early did so for a reason, which the next byte tells.
fn finish_short_write(_memory: &Memory, mut file: &File, _runs: &[Run]) -> Result<(), Problem> {
    let page = [0_u8; PAGE as usize];
    file.write_all(&page).map_err(SysError::io("write")).while_trying_to("write pages")?;
    let errno = Errno::EIO;
    Err(Problem::new(AgentError::Sys(SysError { call: "writev (short)", errno })).step("write pages"))
}

/// Runs cut to what one call can take.
fn split(runs: &[Run]) -> impl Iterator<Item = Run> {
    runs.iter().flat_map(|run| {
        let pieces = (run.end - run.start).div_ceil(MAX_CALL_BYTES);
        (0..pieces).map(|i| {
            let start = run.start + i * MAX_CALL_BYTES;
            Run { start, end: run.end.min(start + MAX_CALL_BYTES), readable: run.readable }
        })
    })
}

fn write_by_us(memory: &Memory, file: &mut File, runs: &[Run]) -> Result<(), Problem> {
    let mut buffer = vec![0; 256 * 1024];
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            let len = ((run.end - at) as usize).min(buffer.len());
            let chunk = buffer.get_mut(..len).unwrap_or_default();
            memory.read(at, chunk).while_trying_to("read pages")?;
            write_all(file, chunk).while_trying_to("write pages")?;
            at += len as u64;
        }
    }
    Ok(())
}

fn write_all(file: &mut File, bytes: &[u8]) -> Result<(), SysError> {
    let written: io::Result<()> = file.write_all(bytes);
    written.map_err(SysError::io("write"))
}

/// Where the bytes of a pages file go, cut to what one `preadv` can take: address and length of each piece.
pub fn vectors(entries: &[PagemapEntry]) -> Vec<Vec<(u64, u64)>> {
    let runs: Vec<Run> = entries
        .iter()
        .map(|entry| {
            let pages = entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages.into());
            Run { start: entry.vaddr, end: entry.vaddr + pages * PAGE, readable: true }
        })
        .collect();
    let mut vectors: Vec<Vec<(u64, u64)>> = Vec::new();
    let mut bytes = 0;
    for run in split(&runs) {
        let len = run.end - run.start;
        match vectors.last_mut() {
            Some(last) if last.len() < IOV_MAX && bytes + len <= MAX_CALL_BYTES => {
                last.push((run.start, len));
            }
            _ => {
                vectors.push(vec![(run.start, len)]);
                bytes = 0;
            }
        }
        bytes += len;
    }
    vectors
}
