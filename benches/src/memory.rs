//! Anonymous memory with 4 KiB or huge pages, filled with contents that do not compress.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use anyhow::{Context as _, Result};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// The page size of x86-64.
pub const PAGE: usize = 4096;

/// The pages that memory asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB, also where the kernel prefers huge ones.
    Small,
    /// Huge pages, by advice.
    Huge,
}

impl Pages {
    /// As it stands in names of quantities.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "4K",
            Self::Huge => "huge",
        }
    }
}

/// A private anonymous mapping.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes and fills them; all pages differ.
    pub fn filled(len: NonZeroUsize, pages: Pages) -> Result<Self> {
        let mut mapping = Self::fresh(len, pages)?;
        mapping.fill();
        Ok(mapping)
    }

    /// Maps `len` bytes of a file, to be read; its pages are present.
    pub fn of_file(file: &File, len: NonZeroUsize) -> Result<Self> {
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(None, len, ProtFlags::PROT_READ, flags, file, 0) }.context("mmap")?;
        Ok(Self { start: start.cast(), len: len.get() })
    }

    /// Maps `len` bytes of a file, to be written. It begins where a huge page can, as larger mappings of files on tmpfs do.
    pub fn shared(file: &File, len: NonZeroUsize) -> Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, file, 0) }.context("mmap")?;
        Ok(Self { start: start.cast(), len: len.get() })
    }

    /// Maps `len` bytes, and touches none.
    pub fn fresh(len: NonZeroUsize, pages: Pages) -> Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start =
            unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) }.context("mmap")?;
        let mapping = Self { start: start.cast(), len: len.get() };
        let advice = match pages {
            Pages::Small => MmapAdvise::MADV_NOHUGEPAGE,
            Pages::Huge => MmapAdvise::MADV_HUGEPAGE,
        };
        // SAFETY: the range is our own mapping, and the advice does not change contents.
        unsafe { madvise(start, mapping.len, advice) }.context("madvise")?;
        Ok(mapping)
    }

    /// Where the mapping begins.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its contents.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, initialized, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Its contents, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is writable, initialized, lives as long as `self`, and is borrowed by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Fills with xorshift numbers, which are never zero.
    fn fill(&mut self) {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in self.bytes_mut().chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping, and no borrow outlives `self`.
        // It fails only for a range that is none, which leaves nothing to undo.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}
