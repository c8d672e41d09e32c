//! The `vsyscall` page: at the same address in every process, mapped by the kernel and by nobody else.

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, status};
use crate::error::Problem;
use crate::kinds::files::{FilesDump, FilesRestore};
use crate::procfs::smaps::SmapsVma;
use crate::tracee::batch::Batch;

/// The vsyscall page.
#[derive(Debug)]
pub struct Vsyscall;

impl MappingKind for Vsyscall {
    const NAME: &'static str = "vsyscall";

    fn claims(vma: &SmapsVma) -> bool {
        vma.vma.path == b"[vsyscall]"
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::VSYSCALL != 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::None
    }

    fn dump(
        _cx: &mut FilesDump<'_>,
        _pid: i32,
        _vma: &SmapsVma,
        entry: &mut VmaEntry,
    ) -> Result<(), Problem> {
        entry.status = status::VSYSCALL | status::ANON_PRIVATE;
        entry.flags |= libc::MAP_ANONYMOUS as u32;
        entry.pgoff = 0;
        Ok(())
    }

    fn restore<'fd>(
        _cx: &'fd FilesRestore<'_>,
        _vma: &VmaEntry,
        _prot: u32,
        _batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        Ok(())
    }
}
