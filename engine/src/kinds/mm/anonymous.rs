//! Private anonymous memory: heap, stacks, and what `mmap(MAP_ANONYMOUS | MAP_PRIVATE)` gives.

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, status};
use crate::error::Problem;
use crate::kinds::files::FilesDump;
use crate::procfs::maps::Name;
use crate::procfs::smaps::SmapsVma;

/// Private anonymous mappings.
#[derive(Debug)]
pub struct AnonymousPrivate;

impl MappingKind for AnonymousPrivate {
    const NAME: &'static str = "anonymous";
    const NOT_SAVED: &'static [&'static str] = &[
        "sharing of pages with other processes after a fork, where it is less than 128 KiB between two tasks, or with --map-pages",
        "NUMA policies of more than 500 mappings, on machines with one node",
    ];

    fn claims(vma: &SmapsVma) -> bool {
        let named = matches!(vma.vma.name(), Name::Unnamed | Name::Heap | Name::Stack | Name::Anon(_));
        vma.vma.inode == 0 && !vma.vma.perms.shared && named
    }

    fn owns(vma: &VmaEntry) -> bool {
        const SPECIAL: u32 = status::VDSO | status::VVAR | status::VSYSCALL;
        vma.status & status::ANON_PRIVATE != 0
            && vma.status & SPECIAL == 0
            && !super::hugetlb::is_hugetlb(vma)
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::OwnPages
    }

    fn dump(_cx: &mut FilesDump<'_>, _pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        entry.status = status::REGULAR | status::ANON_PRIVATE;
        if vma.vma.name() == Name::Heap {
            entry.status |= status::HEAP;
        }
        entry.flags |= libc::MAP_ANONYMOUS as u32;
        entry.pgoff = 0;
        Ok(())
    }
}
