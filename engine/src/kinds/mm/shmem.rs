//! Shared anonymous memory (`mmap(MAP_SHARED | MAP_ANONYMOUS)`): one object for all who inherited it.
//!
//! It shows as `/dev/zero (deleted)`, and its inode number tells which mappings are of one object. `/proc/PID/map_files`
//! opens the object itself, which can then be read and written like a file, holes included; and mapping that descriptor
//! gives a mapping like the first. Pagemaps of such objects hold offsets where others hold addresses.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use proto::messages::{PagemapEntry, PagemapHead, VmaEntry};

use super::pages::{PAGE, PE_PRESENT};
use super::{Contents, MappingKind, status};
use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::kinds::files::{FileRefusal, FilesDump, FilesRestore};
use crate::procfs::smaps::SmapsVma;
use crate::sys::memory;
use crate::tracee::batch::Batch;

/// Shared anonymous mappings.
#[derive(Debug)]
pub struct SharedAnonymous;

/// Objects of the tree, opened, by their inode numbers.
#[derive(Debug, Default)]
struct Dumped(BTreeMap<u64, File>);

/// Objects made again.
#[derive(Debug, Default)]
struct Restored(BTreeMap<u64, OwnedFd>);

/// Largest piece that is copied at once.
const CHUNK: usize = 1 << 20;

impl MappingKind for SharedAnonymous {
    const NAME: &'static str = "shared-anonymous";
    const NOT_SAVED: &'static [&'static str] =
        &["processes outside of the tree that share it, who do so no longer"];

    fn claims(vma: &SmapsVma) -> bool {
        vma.vma.perms.shared && vma.vma.path == b"/dev/zero (deleted)"
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::ANON_SHARED != 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::None
    }

    fn dump(cx: &mut FilesDump<'_>, pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        entry.status = status::REGULAR | status::ANON_SHARED;
        entry.flags |= libc::MAP_ANONYMOUS as u32;
        entry.shmid = vma.vma.inode;
        if let Entry::Vacant(object) = cx.state::<Dumped>().0.entry(vma.vma.inode) {
            let link = format!("/proc/{pid}/map_files/{:x}-{:x}", vma.vma.start, vma.vma.end);
            object.insert(File::open(link).map_err(SysError::io("open(/proc/PID/map_files)"))?);
        }
        Ok(())
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        for (id, object) in std::mem::take(cx.state::<Dumped>()).0 {
            write(images, id, &object).while_trying_to("write shared memory")?;
        }
        Ok(())
    }

    fn prepare(cx: &mut FilesRestore<'_>, vma: &VmaEntry, vmas: &[&VmaEntry]) -> Result<(), Problem> {
        if cx.state::<Restored>().0.contains_key(&vma.shmid) {
            return Ok(());
        }
        let mappings = vmas.iter().filter(|other| Self::owns(other) && other.shmid == vma.shmid);
        let size = mappings.map(|v| v.pgoff.saturating_add(v.end - v.start)).max().unwrap_or(0);
        let object = make(cx, vma.shmid, size).while_trying_to("make shared memory")?;
        cx.state::<Restored>().0.insert(vma.shmid, object);
        Ok(())
    }

    fn restore<'fd>(
        cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        let object = cx.peek::<Restored>().and_then(|r| r.0.get(&vma.shmid));
        let object = object.ok_or_else(|| Problem::new(FileRefusal::NoSuchId(vma.shmid as u32)))?;
        let fd = batch.fd(object.as_fd());
        let of_object = VmaEntry { flags: vma.flags & !(libc::MAP_ANONYMOUS as u32), ..*vma };
        super::map(&of_object, prot, fd, vma.pgoff, batch);
        batch.call("close", libc::SYS_close, args![fd]);
        Ok(())
    }
}

/// Writes one object: its pagemap, and its pages without the holes.
fn write(images: &mut NewImages, id: u64, object: &File) -> Result<(), Problem> {
    let runs = memory::data_runs(object)?;
    let pages_id = images.next_pages_id();
    images.write_with(&proto::catalogue::SHMEM_PAGEMAP, id, |writer| {
        writer.entry(&PagemapHead { pages_id })?;
        for (start, end) in &runs {
            let pages = (end - start) / PAGE;
            writer.entry(&PagemapEntry {
                vaddr: *start,
                compat_nr_pages: pages as u32,
                in_parent: None,
                flags: Some(PE_PRESENT),
                nr_pages: Some(pages),
            })?;
        }
        Ok(())
    })?;
    let file = images.create_file(&proto::catalogue::PAGES.file_name(pages_id.into()))?;
    let mut at = 0;
    for (start, end) in runs {
        copy(object, start, &file, at, end - start)?;
        at += end - start;
    }
    Ok(())
}

/// Makes an object of that size with the contents of its image.
fn make(cx: &FilesRestore<'_>, id: u64, size: u64) -> Result<OwnedFd, Problem> {
    let image = &proto::catalogue::SHMEM_PAGEMAP;
    let (head, entries) = cx.images.read_with(image, id, |mut reader| {
        let head: PagemapHead = reader.required()?;
        Ok((head, reader.all::<PagemapEntry>()?))
    })?;
    let object = memory::shared_object(size)?;
    let file = File::from(object.try_clone().map_err(SysError::io("dup"))?);
    let pages = cx.images.open_file(&proto::catalogue::PAGES.file_name(head.pages_id.into()))?;
    let mut at = 0;
    for entry in entries {
        let count = entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages.into());
        let len = count
            .checked_mul(PAGE)
            .filter(|len| entry.vaddr.checked_add(*len).is_some_and(|end| end <= size));
        let len = len.ok_or_else(|| invalid(image, id, "pages lie behind the end of the memory"))?;
        copy(&pages, at, &file, entry.vaddr, len)?;
        at += len;
    }
    Ok(object)
}

/// Copies bytes from one file to another.
fn copy(from: &File, mut from_at: u64, to: &File, mut to_at: u64, mut len: u64) -> Result<(), SysError> {
    let mut buffer = vec![0; CHUNK.min(len as usize)];
    while len > 0 {
        let piece = (len as usize).min(buffer.len());
        let chunk = buffer.get_mut(..piece).unwrap_or_default();
        from.read_exact_at(chunk, from_at).map_err(SysError::io("read"))?;
        to.write_all_at(chunk, to_at).map_err(SysError::io("write"))?;
        from_at += piece as u64;
        to_at += piece as u64;
        len -= piece as u64;
    }
    Ok(())
}
