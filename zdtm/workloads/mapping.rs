//! A mapping that workloads look at.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect};
use zdtm::workload::Failure;

pub(crate) const PAGE: usize = 4096;
pub(crate) const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Memory that stays mapped until the process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping {
    pub(crate) start: NonNull<libc::c_void>,
    pub(crate) length: usize,
}

impl Mapping {
    pub(crate) fn anonymous(length: usize, prot: ProtFlags) -> Result<Self, Failure> {
        let size = NonZeroUsize::new(length).ok_or_else(|| Failure::new("an empty mapping"))?;
        // SAFETY: the kernel picks the address, so nothing that exists is replaced.
        let start = unsafe { mmap_anonymous(None, size, prot, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { start, length })
    }

    /// Writable memory between two pages that nobody can access, so that no other mapping becomes one with it.
    pub(crate) fn apart(length: usize) -> Result<Self, Failure> {
        let mapping = Self::anonymous(length + 2 * PAGE, ProtFlags::PROT_NONE)?.part(PAGE, length);
        mapping.protect(READ_WRITE)?;
        Ok(mapping)
    }

    pub(crate) fn file(
        file: &File,
        length: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Failure> {
        Self::file_at(file, 0, length, prot, flags)
    }

    pub(crate) fn file_at(
        file: &File,
        offset: usize,
        length: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Failure> {
        let size = NonZeroUsize::new(length).ok_or_else(|| Failure::new("an empty mapping"))?;
        // SAFETY: the kernel picks the address, so nothing that exists is replaced.
        let start = unsafe { mmap(None, size, prot, flags, file, offset as libc::off_t) }?;
        Ok(Self { start, length })
    }

    pub(crate) fn part(&self, offset: usize, length: usize) -> Self {
        let address = self.start.addr().saturating_add(offset);
        Self { start: self.start.with_addr(address), length }
    }

    pub(crate) fn protect(&self, prot: ProtFlags) -> Result<(), Failure> {
        // SAFETY: the caller touches the memory only as its new protection allows.
        Ok(unsafe { mprotect(self.start, self.length, prot) }?)
    }

    /// The memory must be readable.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped for good, and nobody writes while the slice is looked at.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length) }
    }

    /// The memory must be writable.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is mapped for good, and this workload holds no other reference into it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length) }
    }

    /// Kilobytes of it that are in memory, pages shared with others counted in proportion.
    pub(crate) fn pss(&self) -> Result<u64, Failure> {
        let smaps = std::fs::read_to_string("/proc/self/smaps")?;
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((Some(start), Some(end))) = range.map(|(start, end)| (number(start), number(end))) {
                inside = (start..end).contains(&self.address());
            } else if let Some(pss) = line.strip_prefix("Pss:").filter(|_| inside) {
                let kilobytes = pss.trim().trim_end_matches(" kB").parse();
                return kilobytes.map_err(|_error| Failure::new(format!("smaps says {line}")));
            }
        }
        Err(Failure::new("smaps does not show the mapping"))
    }

    pub(crate) fn address(&self) -> usize {
        self.start.addr().get()
    }
}
