//! Shared memory objects, and holes in them.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::error::SysError;

/// A new object as `mmap(MAP_SHARED | MAP_ANONYMOUS)` makes it, of that many bytes, as a descriptor.
pub fn shared_object(size: u64) -> Result<OwnedFd, SysError> {
    let length = NonZeroUsize::new(size as usize).ok_or(SysError { call: "mmap", errno: Errno::EINVAL })?;
    let (prot, flags) =
        (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE);
    // SAFETY: a new mapping at a place that the kernel chooses; nothing of ours is there.
    let start = unsafe { mmap_anonymous(None, length, prot, flags) }.map_err(SysError::of("mmap"))?;
    let first = start.as_ptr().addr();
    let link = format!("/proc/self/map_files/{first:x}-{:x}", first + length.get());
    let opened = File::options().read(true).write(true).open(link);
    // SAFETY: the mapping was made above, and nothing points into it.
    unsafe { munmap(start, length.get()) }.map_err(SysError::of("munmap"))?;
    Ok(opened.map_err(SysError::io("open(/proc/self/map_files)"))?.into())
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
