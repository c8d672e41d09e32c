//! Shared anonymous memory (`mmap(MAP_SHARED | MAP_ANONYMOUS)`): one object for all who inherited it.
//!
//! It shows as `/dev/zero (deleted)`, with hugetlb pages as `/anon_hugepage (deleted)`, and its inode number tells which
//! mappings are of one object. `/proc/PID/map_files` opens the object itself, which can then be read and written like a
//! file; and mapping that descriptor gives a mapping like the first.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, hugetlb, shared, status};
use crate::error::{Context as _, Problem};
use crate::image::NewImages;
use crate::kinds::files::{FileRefusal, FilesDump, FilesRestore};
use crate::procfs::smaps::SmapsVma;
use crate::sys::memory;
use crate::tracee::batch::Batch;

/// Shared anonymous mappings.
#[derive(Debug)]
pub struct SharedAnonymous;

/// Objects of the tree, opened, with their page sizes, by their numbers.
#[derive(Debug, Default)]
struct Dumped(BTreeMap<u64, (File, u64)>);

/// Objects made again.
#[derive(Debug, Default)]
struct Restored(BTreeMap<u64, OwnedFd>);

/// Numbers of objects with hugetlb pages have this bit: their inodes are of another filesystem.
const HUGE: u64 = 1 << 62;

impl MappingKind for SharedAnonymous {
    const NAME: &'static str = "shared-anonymous";
    const NOT_SAVED: &'static [&'static str] =
        &["processes outside of the tree that share it, who do so no longer"];

    fn claims(vma: &SmapsVma) -> bool {
        vma.vma.perms.shared && (vma.vma.path == b"/dev/zero (deleted)" || hugetlb::is_anonymous(vma))
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::ANON_SHARED != 0 && vma.status & status::SYSV == 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::None
    }

    fn dump(cx: &mut FilesDump<'_>, pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        entry.status = status::REGULAR | status::ANON_SHARED;
        entry.flags |= libc::MAP_ANONYMOUS as u32 | hugetlb::flags(vma);
        entry.shmid = if hugetlb::is_anonymous(vma) { HUGE | vma.vma.inode } else { vma.vma.inode };
        if let Entry::Vacant(object) = cx.state::<Dumped>().0.entry(entry.shmid) {
            object.insert((shared::open(pid, vma.vma.start, vma.vma.end)?, vma.page_size));
        }
        Ok(())
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        for (id, (object, page_size)) in std::mem::take(cx.state::<Dumped>()).0 {
            shared::write(images, id, &object, page_size).while_trying_to("write shared memory")?;
        }
        Ok(())
    }

    fn prepare(cx: &mut FilesRestore<'_>, vma: &VmaEntry, vmas: &[&VmaEntry]) -> Result<(), Problem> {
        if cx.state::<Restored>().0.contains_key(&vma.shmid) {
            return Ok(());
        }
        let step = "make shared memory";
        let mappings = vmas.iter().filter(|other| Self::owns(other) && other.shmid == vma.shmid);
        let mapped = mappings.map(|v| v.pgoff.saturating_add(v.end - v.start)).max().unwrap_or(0);
        // The end of it may be mapped by nobody any more, and still have contents.
        let size = mapped.max(shared::size_in_image(cx.images, vma.shmid)?);
        let page_size = hugetlb::page_size(vma.flags);
        let size = size.next_multiple_of(page_size);
        let object = memory::shared_object(size, hugetlb::of_flags(vma.flags)).while_trying_to(step)?;
        shared::fill(cx.images, vma.shmid, object.as_fd(), size, page_size).while_trying_to(step)?;
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
        let flags = vma.flags & !(libc::MAP_ANONYMOUS as u32 | hugetlb::of_flags(vma.flags));
        super::map_file(&VmaEntry { flags, ..*vma }, prot, object.as_fd(), batch);
        Ok(())
    }
}
