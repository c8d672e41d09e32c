//! Shared memory objects, and holes in them.

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::error::SysError;

/// A new object as `mmap(MAP_SHARED | MAP_ANONYMOUS)` makes it, of that many bytes, as a descriptor. `huge` are flags of
/// mmap that ask for hugetlb pages, or 0.
pub fn shared_object(size: u64, huge: u32) -> Result<OwnedFd, SysError> {
    let length = NonZeroUsize::new(size as usize).ok_or(SysError { call: "mmap", errno: Errno::EINVAL })?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags =
        MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE | MapFlags::from_bits_retain(huge.cast_signed());
    // SAFETY: a new mapping at a place that the kernel chooses; nothing of ours is there.
    let start = unsafe { mmap_anonymous(None, length, prot, flags) }.map_err(SysError::of("mmap"))?;
    let first = start.as_ptr().addr();
    let link = format!("/proc/self/map_files/{first:x}-{:x}", first + length.get());
    let opened = File::options().read(true).write(true).open(link);
    // SAFETY: the mapping was made above, and nothing points into it.
    unsafe { munmap(start, length.get()) }.map_err(SysError::of("munmap"))?;
    Ok(opened.map_err(SysError::io("open(/proc/self/map_files)"))?.into())
}

/// Writes to a file of hugetlb pages, which can only be mapped.
pub fn write_by_mapping(file: &File, offset: u64, bytes: &[u8], page_size: u64) -> Result<(), SysError> {
    let skip = (offset % page_size) as usize;
    let Some(length) = NonZeroUsize::new((skip + bytes.len()).next_multiple_of(page_size as usize)) else {
        return Ok(());
    };
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let from = offset as i64 - skip as i64;
    // SAFETY: a new mapping at a place that the kernel chooses. It reserves its pages, so that no access faults for want
    // of one.
    let start = unsafe { mmap(None, length, prot, MapFlags::MAP_SHARED, file, from) };
    let start = start.map_err(SysError::of("mmap (of hugetlb pages)"))?;
    let to = start.cast::<u8>().as_ptr().wrapping_add(skip);
    // SAFETY: the mapping is that much longer at least, writable, and overlaps nothing.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    // SAFETY: the mapping was made above, and nothing points into it.
    unsafe { munmap(start, length.get()) }.map_err(SysError::of("munmap"))
}

/// Has the allocator take memory from the kernel in large pieces, and give none back (mallopt(3)): in small ones, threads wait
/// there for each other, and for who touches memory for the first time.
pub fn keep_heap() {
    /// What a heap grows by.
    const STEP: i32 = 4 << 20;
    /// What is mapped by itself; the most that the allocator takes (`DEFAULT_MMAP_THRESHOLD_MAX`).
    const LARGE: i32 = 32 << 20;
    for (parameter, value) in
        [(libc::M_TOP_PAD, STEP), (libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_MMAP_THRESHOLD, LARGE)]
    {
        // SAFETY: the call only sets a parameter of the allocator.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Has the kernel map what we are going to use: pages of private mappings that are there already, and copies of those that
/// a fork left to be copied when written. Kernels before 5.14 do not know how.
pub fn populate(start: u64, end: u64, writable: bool) -> Result<(), SysError> {
    let advice = if writable { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    // SAFETY: changes no contents and no protection, whatever is mapped there.
    let done = unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, advice) };
    Errno::result(done).map(drop).map_err(SysError::of("madvise"))
}

/// The seals of a memory file.
pub fn seals(file: BorrowedFd<'_>) -> Result<u32, SysError> {
    // SAFETY: takes numbers only.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    Ok(Errno::result(seals).map_err(SysError::of("fcntl(F_GET_SEALS)"))? as u32)
}

/// Adds seals that a memory file does not have yet.
pub fn add_seals(file: BorrowedFd<'_>, wanted: u32) -> Result<(), SysError> {
    let missing = wanted & !seals(file)?;
    if missing == 0 {
        return Ok(());
    }
    // SAFETY: takes numbers only.
    let added = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, missing) };
    Errno::result(added).map(drop).map_err(SysError::of("fcntl(F_ADD_SEALS)"))
}

/// Whether a file is of hugetlb pages.
pub fn is_hugetlbfs(file: &File) -> Result<bool, SysError> {
    /// From `include/uapi/linux/magic.h`.
    const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
    let stat = nix::sys::statfs::fstatfs(file).map_err(SysError::of("fstatfs"))?;
    Ok(stat.filesystem_type().0 == HUGETLBFS_MAGIC)
}

/// Where a file has data: start and end of each run, without the holes between them.
pub fn data_runs(file: &File) -> Result<Vec<(u64, u64)>, SysError> {
    let mut runs = Vec::new();
    let mut at = 0;
    loop {
        let Some(start) = seek(file, at, libc::SEEK_DATA)? else { return Ok(runs) };
        let Some(end) = seek(file, start, libc::SEEK_HOLE)? else { return Ok(runs) };
        runs.push((start, end));
        at = end;
    }
}

/// The next data or hole at or behind `from`; none if there is none.
fn seek(file: &File, from: u64, whence: i32) -> Result<Option<u64>, SysError> {
    // SAFETY: takes numbers only.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
    match Errno::result(found) {
        Ok(found) => Ok(Some(found as u64)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(SysError { call: "lseek", errno }),
    }
}

/// A file in memory, to be read.
///
/// Whoever makes the file shorter meanwhile makes reading it fatal; [`end_on_cut_files`] says so then.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is read only, and nobody but its owner unmaps it.
unsafe impl Send for MappedFile {}
// SAFETY: as above.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Maps a whole file.
    pub fn new(file: &File) -> Result<Self, SysError> {
        end_on_cut_files()?;
        Self::map(file, MapFlags::MAP_SHARED)
    }

    /// Maps a file of sysfs, which may be mapped privately only.
    pub fn of_sysfs(file: &File) -> Result<Self, SysError> {
        Self::map(file, MapFlags::MAP_PRIVATE)
    }

    fn map(file: &File, flags: MapFlags) -> Result<Self, SysError> {
        let len = file.metadata().map_err(SysError::io("fstat"))?.len() as usize;
        let Some(length) = NonZeroUsize::new(len) else {
            return Ok(Self { start: NonNull::dangling(), len: 0 });
        };
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, file, 0) };
        Ok(Self { start: start.map_err(SysError::of("mmap"))?.cast(), len })
    }

    /// How long it was when it was mapped.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// A part of it.
    pub fn get(&self, offset: u64, len: u64) -> Option<&[u8]> {
        // SAFETY: the mapping has that many bytes, and lives as long as the slice.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) };
        bytes.get(offset as usize..)?.get(..len as usize)
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping is ours, and no slice of it lives longer.
            let unmapped = unsafe { munmap(self.start.cast(), self.len) };
            debug_assert!(unmapped.is_ok());
        }
    }
}

/// A file on tmpfs that is new, mapped to be written.
///
/// Whoever makes the file shorter meanwhile makes touching it fatal.
#[derive(Debug)]
pub struct MappedOutput {
    /// The mapping, and some addresses around it that were reserved to have it begin where a huge page can.
    reserved: (NonNull<c_void>, usize),
    start: NonNull<u8>,
    len: usize,
}

impl MappedOutput {
    /// Size of a huge page, and of what can be collapsed into one.
    pub const HUGE: usize = 2 << 20;

    /// Maps the first bytes of a file, which is as long at least.
    pub fn new(file: &File, len: NonZeroUsize) -> Result<Self, SysError> {
        let too_long = SysError { call: "mmap", errno: Errno::ENOMEM };
        let with_margin = len.checked_add(Self::HUGE).ok_or(too_long)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let around = unsafe { mmap_anonymous(None, with_margin, ProtFlags::PROT_NONE, flags) };
        let around = around.map_err(SysError::of("mmap"))?;
        let first = NonZeroUsize::new(around.as_ptr().addr().next_multiple_of(Self::HUGE));
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: it lies within what was reserved above, where nothing is.
        let start = unsafe { mmap(first, len, prot, flags, file, 0) };
        let reserved = (around, with_margin.get());
        match start {
            Ok(start) => Ok(Self { reserved, start: start.cast(), len: len.get() }),
            Err(errno) => {
                // SAFETY: what was reserved above; nothing points there.
                unsafe { munmap(around, with_margin.get()) }.map_err(SysError::of("munmap"))?;
                Err(SysError { call: "mmap", errno })
            }
        }
    }

    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has that many bytes, which are writable, lives as long as the slice, and is nobody else's.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for MappedOutput {
    fn drop(&mut self) {
        let (start, len) = self.reserved;
        // SAFETY: all of it is ours, and no slice of it lives longer.
        let unmapped = unsafe { munmap(start, len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Replaces the pages of a part of a mapping, of which one at least is there, by a huge page: synchronously, and whatever
/// the settings of the machine say (`MADV_COLLAPSE`, Linux 6.1).
pub fn collapse(bytes: &mut [u8]) -> Result<(), SysError> {
    /// From `include/uapi/asm-generic/mman-common.h`.
    const MADV_COLLAPSE: i32 = 25;
    // SAFETY: changes no contents and no protection; the range is mapped.
    let done = unsafe { libc::madvise(bytes.as_mut_ptr().cast(), bytes.len(), MADV_COLLAPSE) };
    Errno::result(done).map(drop).map_err(SysError::of("madvise(MADV_COLLAPSE)"))
}

/// Memory of ours that nobody uses, to be looked at: each page a mapping of its own.
#[derive(Debug)]
pub struct Sample {
    start: NonNull<c_void>,
    len: usize,
}

impl Sample {
    /// Maps a page for each piece of advice, then one that is locked as it is touched; a shared one, if `shared`. Advice that
    /// the kernel does not know is not followed.
    pub fn new(advice: &[i32], shared: bool) -> Result<Self, SysError> {
        const PAGE: usize = 4096;
        let len = (advice.len() + 1) * PAGE;
        let length = NonZeroUsize::new(len).ok_or(SysError { call: "mmap", errno: Errno::EINVAL })?;
        let sharing = if shared { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { mmap_anonymous(None, length, prot, sharing | MapFlags::MAP_NORESERVE) };
        let sample = Self { start: start.map_err(SysError::of("mmap"))?, len };
        let mut page = sample.start.as_ptr();
        for advice in advice {
            // SAFETY: changes no contents that anybody would miss; the page is ours.
            let _ = unsafe { libc::madvise(page, PAGE, *advice) };
            page = page.wrapping_byte_add(PAGE);
        }
        // SAFETY: the page is ours.
        let _ = unsafe { libc::mlock2(page, PAGE, libc::MLOCK_ONFAULT) };
        Ok(sample)
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing points into it.
        let unmapped = unsafe { munmap(self.start, self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Whether a file is on tmpfs.
pub fn is_tmpfs(file: &File) -> Result<bool, SysError> {
    let stat = nix::sys::statfs::fstatfs(file).map_err(SysError::of("fstatfs"))?;
    Ok(stat.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

/// Ends us with a message when a mapped image file was made shorter; the kernel ends the stubs with us.
fn end_on_cut_files() -> Result<(), SysError> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn end(_: i32) {
        const TEXT: &[u8] = b"Error: a pages file became shorter while it was read; nothing is restored\n";
        // SAFETY: writes bytes that live for ever; the call is allowed in a handler.
        unsafe { libc::write(2, TEXT.as_ptr().cast(), TEXT.len()) };
        // SAFETY: does not return, and is allowed in a handler.
        unsafe { libc::_exit(5) }
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler calls nothing but what signal-safety(7) allows.
    unsafe { sigaction(Signal::SIGBUS, &action) }.map(drop).map_err(SysError::of("sigaction"))
}
