//! Mappings of memory files (`memfd_create`), private and shared. The file itself is the kind of descriptor of that name.

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, status};
use crate::error::Problem;
use crate::kinds::files::{FilesDump, FilesRestore, memfd};
use crate::procfs::link::{Link, parse};
use crate::procfs::smaps::{SmapsVma, VmFlag};
use crate::tracee::batch::Batch;

/// Mappings of memory files.
#[derive(Debug)]
pub struct MemfdMapping;

impl MappingKind for MemfdMapping {
    const NAME: &'static str = "memfd-mapping";

    fn claims(vma: &SmapsVma) -> bool {
        matches!(parse(&vma.vma.path), Link::Memfd(_))
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::MEMFD != 0
    }

    fn contents(vma: &SmapsVma) -> Contents {
        if vma.vma.perms.shared { Contents::None } else { Contents::OwnPages }
    }

    fn dump(cx: &mut FilesDump<'_>, pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        let shared = vma.vma.perms.shared;
        let file = if shared { status::FILE_SHARED } else { status::FILE_PRIVATE };
        entry.status = status::REGULAR | file | status::MEMFD;
        // A mapping that may become writable counts as such when the file is to be sealed.
        let writable = shared && vma.flags.has(VmFlag::MayWrite);
        let flags = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", vma.vma.start, vma.vma.end);
        entry.shmid = memfd::add_mapped(cx, &link, flags)?.into();
        entry.fdflags = Some(flags as u32);
        Ok(())
    }

    fn prepare(cx: &mut FilesRestore<'_>, vma: &VmaEntry, _vmas: &[&VmaEntry]) -> Result<(), Problem> {
        cx.open(vma.shmid as u32).map(drop)
    }

    fn restore<'fd>(
        cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        super::map_opened(cx, vma, prot, batch)
    }
}
