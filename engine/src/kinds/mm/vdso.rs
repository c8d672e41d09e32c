//! The vdso and its data (`[vdso]`, `[vvar]`, `[vvar_vclock]`): the kernel's own pages in each process.
//!
//! They are not copied but asked for: `arch_prctl(ARCH_MAP_VDSO_64)` maps them at a chosen address, in the layout of the
//! running kernel, which must be that of the dumped one. In images the data is one mapping, whatever parts it has.

use std::sync::LazyLock;

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, MappingRefusal, object, status};
use crate::args;
use crate::dump::inspect::read_proc;
use crate::error::Problem;
use crate::kinds::files::{FilesDump, FilesRestore};
use crate::procfs;
use crate::procfs::maps::Vma;
use crate::procfs::smaps::SmapsVma;
use crate::tracee::batch::Batch;

/// The vdso, code and data.
#[derive(Debug)]
pub struct Vdso;

/// From `arch/x86/include/uapi/asm/prctl.h`.
const ARCH_MAP_VDSO_64: u64 = 0x2003;

impl MappingKind for Vdso {
    const NAME: &'static str = "vdso";

    fn claims(vma: &SmapsVma) -> bool {
        is_code(&vma.vma) || is_data(&vma.vma)
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & (status::VDSO | status::VVAR) != 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::None
    }

    fn dump(_cx: &mut FilesDump<'_>, _pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        let part = if is_code(&vma.vma) { status::VDSO } else { status::VVAR };
        entry.status = status::REGULAR | status::ANON_PRIVATE | part;
        entry.flags |= libc::MAP_ANONYMOUS as u32;
        entry.pgoff = 0;
        Ok(())
    }

    fn restore<'fd>(
        _cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        _prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        // Data comes first, and the call maps both.
        if vma.status & status::VVAR != 0 {
            batch.call(
                "arch_prctl(ARCH_MAP_VDSO_64)",
                libc::SYS_arch_prctl,
                args![ARCH_MAP_VDSO_64, vma.start],
            );
        }
        Ok(())
    }
}

fn is_code(vma: &Vma) -> bool {
    vma.path == b"[vdso]"
}

fn is_data(vma: &Vma) -> bool {
    vma.path == b"[vvar]" || vma.path == b"[vvar_vclock]"
}

/// Where vdso data and code are in a list of mappings: start of the data, start of the code, end of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    data: u64,
    code: u64,
    end: u64,
}

impl Layout {
    /// Bytes of data, and of code.
    fn sizes(self) -> (u64, u64) {
        (self.code - self.data, self.end - self.code)
    }

    /// The layout that a process on this kernel has.
    pub fn of_process(vmas: &[Vma]) -> Option<Self> {
        let data = vmas.iter().find(|v| is_data(v))?;
        let code = vmas.iter().find(|v| is_code(v))?;
        Some(Self { data: data.start, code: code.start, end: code.end })
    }
}

/// The layout that every process on this kernel is given.
pub fn here() -> Option<Layout> {
    static HERE: LazyLock<Option<Layout>> =
        LazyLock::new(|| Layout::of_process(&read_proc("/proc/self/maps".into(), procfs::maps::parse).ok()?));
    *HERE
}

/// Refuses mappings whose vdso this kernel cannot put back. A process may have unmapped the code, and kept the data.
pub fn check(vmas: &[VmaEntry], here: Option<Layout>) -> Result<(), Problem> {
    let Some(first) = vmas.iter().find(|v| Vdso::owns(v)) else { return Ok(()) };
    let data = vmas.iter().find(|v| v.status & status::VVAR != 0).map(|v| (v.start, v.end - v.start));
    let code = vmas.iter().find(|v| v.status & status::VDSO != 0).map(|v| (v.start, v.end - v.start));
    let same = match (here.map(Layout::sizes), data, code) {
        (Some((data_size, _)), Some((_, data)), None) => data == data_size,
        (Some((data_size, code_size)), Some((start, data)), Some((at, code))) => {
            (data, code) == (data_size, code_size) && start + data == at
        }
        _ => false,
    };
    if same {
        return Ok(());
    }
    let pages = here.map_or(0, |l| (l.end - l.data) / 4096);
    Err(Problem::new(MappingRefusal::OtherVdso(pages)).object(object(first)))
}

/// Adds the call that takes away again what was mapped with the data, but is not in the image.
pub fn trim(vmas: &[VmaEntry], batch: &mut Batch<'_>) {
    let data = vmas.iter().find(|v| v.status & status::VVAR != 0);
    let has_code = vmas.iter().any(|v| v.status & status::VDSO != 0);
    if let (Some(data), false, Some((_, code_size))) = (data, has_code, here().map(Layout::sizes)) {
        batch.call("munmap", libc::SYS_munmap, args![data.end, code_size]);
    }
}
