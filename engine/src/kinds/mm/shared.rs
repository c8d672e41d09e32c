//! Contents of shared memory objects, whichever kind they are: pages without the holes between them.
//!
//! An object is a file without a name, and can be read and written like one; hugetlb pages can only be mapped. Pagemaps of
//! objects hold offsets where others hold addresses.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;

use proto::catalogue::{PAGES, SHMEM_PAGEMAP};
use proto::messages::{PagemapEntry, PagemapHead};

use super::pages::{self, PAGE, Run, bytes_of, entry};
use crate::checksum::BLOCK;
use crate::dump::pages_file::{self, Source};
use crate::error::{Object, Problem, SysError};
use crate::image::{ImageError, Images, NewImages, invalid};
use crate::side_by_side;
use crate::sys::memory::{self, MappedFile};

/// Bytes that are copied at once.
const CHUNK: u64 = 256 << 10;

/// Opens the object behind a mapping of a process.
pub fn open(pid: i32, start: u64, end: u64) -> Result<File, SysError> {
    let link = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    File::open(link).map_err(SysError::io("open(/proc/PID/map_files)"))
}

/// Writes an object's contents under this number: its pagemap, and its pages without the holes.
pub fn write(images: &mut NewImages, id: u64, object: &File, page_size: u64) -> Result<(), Problem> {
    let data = if page_size > PAGE { huge_runs(object, page_size)? } else { memory::data_runs(object)? };
    // Data ends where the file does, which may be within a page.
    let run = |(start, end): (u64, u64)| Run { start, end: end.next_multiple_of(PAGE), offset: 0 };
    let mut runs: Vec<Run> = data.into_iter().map(run).collect();
    pages::lay_out(&mut runs);
    log::info!("shared memory {id}: {} pages are written while its users are stopped", pages::count(&runs));
    let pages_id = images.next_pages_id();
    images.write_with(&SHMEM_PAGEMAP, id, |writer| {
        writer.entry(&PagemapHead { pages_id })?;
        runs.iter().try_for_each(|run| writer.entry(&entry(run.start, run.len())))
    })?;
    let name = PAGES.file_name(pages_id.into());
    let size = runs.last().map_or(0, |run| run.offset + run.len());
    let file = images.create_pages_file(&name, size)?;
    let sums = pages_file::write(object, &runs, &file, images.has_checksums(), &mut |_| Ok(()))?;
    if let Some(sums) = sums {
        images.set_checksums(&name, sums);
    }
    Ok(())
}

impl Source for File {
    fn read(&self, ranges: &[(u64, usize)], mut buffer: &mut [u8]) -> Result<(), SysError> {
        for &(at, len) in ranges {
            let (now, later) = buffer.split_at_mut(len.min(buffer.len()));
            read(self, now, at)?;
            buffer = later;
        }
        Ok(())
    }
}

/// Reads bytes; an object may end within its last page.
fn read(object: &File, chunk: &mut [u8], at: u64) -> Result<(), SysError> {
    let mut done = 0;
    while let Some(rest) = chunk.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match object.read_at(rest, at + done as u64).map_err(SysError::io("read"))? {
            0 => {
                rest.fill(0);
                return Ok(());
            }
            read => done += read,
        }
    }
    Ok(())
}

/// Where an object of huge pages has any that are not zeros: it does not tell its holes.
fn huge_runs(object: &File, page_size: u64) -> Result<Vec<(u64, u64)>, SysError> {
    let size = object.metadata().map_err(SysError::io("fstat"))?.len();
    let mut buffer = vec![0; CHUNK as usize];
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for page in (0..size).step_by(page_size as usize) {
        let mut holds = false;
        for at in (page..page + page_size).step_by(CHUNK as usize) {
            read(object, &mut buffer, at)?;
            if buffer.iter().any(|byte| *byte != 0) {
                holds = true;
                break;
            }
        }
        match runs.last_mut() {
            Some((_, end)) if holds && *end == page => *end += page_size,
            _ if holds => runs.push((page, page + page_size)),
            _ => {}
        }
    }
    Ok(runs)
}

/// How large an object must be for the contents under this number.
pub fn size_in_image(images: &Images, id: u64) -> Result<u64, Problem> {
    let (_, entries) = read_map(images, id)?;
    let end = entries.last().and_then(|e| e.vaddr.checked_add(bytes_of(e)?));
    Ok(end.unwrap_or(0))
}

fn read_map(images: &Images, id: u64) -> Result<(PagemapHead, Vec<PagemapEntry>), Problem> {
    images.read_with(&SHMEM_PAGEMAP, id, |mut reader| {
        let head: PagemapHead = reader.required()?;
        Ok((head, reader.all()?))
    })
}

/// Bytes of a pages file, and where they belong in an object.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from: u64,
    at: u64,
    len: u64,
}

/// Gives an object of `size` bytes, which is empty, the contents under this number. Checksums are compared on the way.
pub fn fill(
    images: &Images,
    id: u64,
    object: BorrowedFd<'_>,
    size: u64,
    page_size: u64,
) -> Result<(), Problem> {
    let (head, entries) = read_map(images, id)?;
    if entries.is_empty() {
        return Ok(());
    }
    let name = PAGES.file_name(head.pages_id.into());
    let pages = MappedFile::new(&images.open_file(&name)?)?;
    let damaged = |damage| {
        Problem::new(ImageError::Damaged(damage)).object(Object::Image(name.clone())).step("check it")
    };
    let sums = images.sums(&name);
    if let Some(damage) = sums.and_then(|sums| sums.compare_size(pages.len())) {
        return Err(damaged(damage));
    }
    let pieces = pieces(id, &entries, size, page_size)?;
    if pieces.last().is_some_and(|last| last.from + last.len > pages.len()) {
        return Err(invalid(&PAGES, head.pages_id.into(), "it is shorter than its pagemap says"));
    }
    let object: OwnedFd = object.try_clone_to_owned().map_err(SysError::io("dup"))?;
    let object = File::from(object);
    let fill = |pieces: &[Piece]| -> Result<u64, Problem> {
        let block = pieces.first().map_or(0, |first| first.from / BLOCK * BLOCK);
        let bytes = |from, len| pages.get(from, len).unwrap_or_default();
        let whole = bytes(block, BLOCK.min(pages.len() - block));
        if let Some(damage) = sums.and_then(|sums| sums.compare_block(block, whole)) {
            return Err(damaged(damage));
        }
        for piece in pieces {
            // The last page may reach behind the end.
            let bytes = bytes(piece.from, piece.len.min(size.saturating_sub(piece.at)));
            if page_size > PAGE {
                memory::write_by_mapping(&object, piece.at, bytes, page_size)?;
            } else {
                object.write_all_at(bytes, piece.at).map_err(SysError::io("write"))?;
            }
        }
        Ok(pieces.iter().map(|piece| piece.len).sum())
    };
    let queue = Mutex::new(pieces.chunk_by(|a, b| a.from / BLOCK == b.from / BLOCK));
    let next = || queue.lock().ok()?.next();
    side_by_side::work_off(pages.len(), || next().map(fill), &mut |_| Ok(()))
}

/// Where everything of an object comes from, cut where blocks of the file end.
fn pieces(id: u64, entries: &[PagemapEntry], size: u64, page_size: u64) -> Result<Vec<Piece>, Problem> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for entry in entries {
        let end = bytes_of(entry).and_then(|len| entry.vaddr.checked_add(len));
        let end = end.filter(|end| *end <= size.next_multiple_of(page_size));
        let end = end.ok_or_else(|| invalid(&SHMEM_PAGEMAP, id, "pages lie behind the end of the memory"))?;
        let mut at = entry.vaddr;
        while at < end {
            let len = (BLOCK - from % BLOCK).min(end - at);
            pieces.push(Piece { from, at, len });
            (from, at) = (from + len, at + len);
        }
    }
    Ok(pieces)
}
