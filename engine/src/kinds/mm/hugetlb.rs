//! Private anonymous memory of hugetlb pages (`mmap(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB)`).
//!
//! It shows as `/anon_hugepage (deleted)`, and `/proc/PID/smaps` tells the size of its pages.

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, status};
use crate::error::Problem;
use crate::kinds::files::FilesDump;
use crate::procfs::smaps::{SmapsVma, VmFlag};

/// Where the logarithm of the page size is in flags of mmap and memfd_create (`include/uapi/asm-generic/hugetlb_encode.h`).
pub const SIZE_SHIFT: u32 = 26;
const SIZE_MASK: u32 = 0x3f << SIZE_SHIFT;

/// Private hugetlb mappings.
#[derive(Debug)]
pub struct HugetlbPrivate;

impl MappingKind for HugetlbPrivate {
    const NAME: &'static str = "hugetlb";

    fn claims(vma: &SmapsVma) -> bool {
        !vma.vma.perms.shared && is_anonymous(vma)
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::ANON_PRIVATE != 0 && is_hugetlb(vma)
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::OwnPages
    }

    fn dump(_cx: &mut FilesDump<'_>, _pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        entry.status = status::REGULAR | status::ANON_PRIVATE;
        entry.flags |= libc::MAP_ANONYMOUS as u32 | flags(vma);
        entry.pgoff = 0;
        Ok(())
    }
}

/// Whether a mapping is of hugetlb pages without a name.
pub fn is_anonymous(vma: &SmapsVma) -> bool {
    vma.flags.has(VmFlag::HugeTlb) && vma.vma.path == b"/anon_hugepage (deleted)"
}

/// Whether a mapping in an image is.
pub fn is_hugetlb(vma: &VmaEntry) -> bool {
    vma.flags & libc::MAP_HUGETLB as u32 != 0
}

/// The flags of mmap that ask for a mapping's pages; 0 for ordinary ones.
pub fn flags(vma: &SmapsVma) -> u32 {
    if vma.flags.has(VmFlag::HugeTlb) { libc::MAP_HUGETLB as u32 | size_flag(vma.page_size) } else { 0 }
}

/// The flag of a page size.
pub fn size_flag(page_size: u64) -> u32 {
    page_size.trailing_zeros() << SIZE_SHIFT
}

/// Those flags, of all flags of a mapping.
pub fn of_flags(flags: u32) -> u32 {
    let hugetlb = libc::MAP_HUGETLB as u32;
    if flags & hugetlb == 0 { 0 } else { flags & (hugetlb | SIZE_MASK) }
}

/// The page size that flags ask for.
pub fn page_size(flags: u32) -> u64 {
    let shift = (of_flags(flags) & SIZE_MASK) >> SIZE_SHIFT;
    if shift == 0 || flags & libc::MAP_HUGETLB as u32 == 0 { super::pages::PAGE } else { 1 << shift }
}
