//! Contents of shared memory objects, whichever kind they are: pages without the holes between them.
//!
//! An object is a file without a name, and can be read and written like one; hugetlb pages can only be mapped. Pagemaps of
//! objects hold offsets where others hold addresses.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use proto::catalogue::{PAGES, SHMEM_PAGEMAP};
use proto::messages::{PagemapEntry, PagemapHead};

use super::pages::{PAGE, bytes_of, entry};
use crate::error::{Context as _, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
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
    let mut runs = if page_size > PAGE { huge_runs(object, page_size)? } else { memory::data_runs(object)? };
    if let Some((_, end)) = runs.last_mut() {
        // Data ends where the file does, which may be within a page.
        *end = end.next_multiple_of(PAGE);
    }
    let pages_id = images.next_pages_id();
    images.write_with(&SHMEM_PAGEMAP, id, |writer| {
        writer.entry(&PagemapHead { pages_id })?;
        runs.iter().try_for_each(|(start, end)| writer.entry(&entry(*start, end - start)))
    })?;
    let file = images.create_file(&PAGES.file_name(pages_id.into()))?;
    let mut buffer = vec![0; CHUNK as usize];
    let mut to = 0;
    for (start, end) in runs {
        let mut at = start;
        while at < end {
            let chunk = buffer.get_mut(..CHUNK.min(end - at) as usize).unwrap_or_default();
            read(object, chunk, at)?;
            file.write_all_at(chunk, to).map_err(SysError::io("write")).while_trying_to("write pages")?;
            at += chunk.len() as u64;
            to += chunk.len() as u64;
        }
    }
    Ok(())
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

/// Gives an object of `size` bytes, which is empty, the contents under this number.
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
    let file = images.open_file(&name)?;
    images.verify(&name, &file)?;
    let pages = MappedFile::new(&file)?;
    let object: OwnedFd = object.try_clone_to_owned().map_err(SysError::io("dup"))?;
    let object = File::from(object);
    let mut from = 0;
    for entry in entries {
        let end = bytes_of(&entry).and_then(|len| entry.vaddr.checked_add(len));
        let end = end.filter(|end| *end <= size.next_multiple_of(page_size));
        let end = end.ok_or_else(|| invalid(&SHMEM_PAGEMAP, id, "pages lie behind the end of the memory"))?;
        let len = end - entry.vaddr;
        let bytes = pages.get(from, len);
        let bytes = bytes
            .ok_or_else(|| invalid(&PAGES, head.pages_id.into(), "it is shorter than its pagemap says"))?;
        from += len;
        // The last page may reach behind the end.
        let bytes = bytes.get(..(size.saturating_sub(entry.vaddr).min(len)) as usize).unwrap_or(bytes);
        if page_size > PAGE {
            memory::write_by_mapping(&object, entry.vaddr, bytes, page_size)?;
        } else {
            object.write_all_at(bytes, entry.vaddr).map_err(SysError::io("write"))?;
        }
    }
    Ok(())
}
