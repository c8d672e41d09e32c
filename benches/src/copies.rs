//! System calls that the bench of ways to copy compares.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::{ForkResult, Pid, fork};

use crate::memory::Mapping;

// From `include/uapi/linux/userfaultfd.h`: `_IOWR(0xAA, …)`.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const REGISTER_MISSING: u64 = 1;

/// Memory whose missing pages are ours to fill.
#[derive(Debug)]
pub struct Faults(OwnedFd);

impl Faults {
    /// Takes over a mapping that has no pages yet.
    pub fn of(memory: &Mapping) -> Result<Self> {
        // SAFETY: takes flags only, and gives a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = Errno::result(fd).context("userfaultfd")? as i32;
        // SAFETY: the descriptor is new, and nobody else's.
        let faults = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        faults.ioctl(UFFDIO_API, &mut [0xaa, 0, 0])?;
        let bytes = memory.bytes();
        let range = [bytes.as_ptr().addr() as u64, bytes.len() as u64];
        faults.ioctl(UFFDIO_REGISTER, &mut [range[0], range[1], REGISTER_MISSING, 0])?;
        Ok(faults)
    }

    /// Fills pages.
    pub fn copy(&self, to: *const u8, from: &[u8]) -> Result<()> {
        let mut request = [to.addr() as u64, from.as_ptr().addr() as u64, from.len() as u64, 0, 0];
        self.ioctl(UFFDIO_COPY, &mut request)
    }

    fn ioctl<const N: usize>(&self, number: u64, request: &mut [u64; N]) -> Result<()> {
        // SAFETY: the requests used here read and write structures of as many words.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), number, request.as_mut_ptr()) };
        Errno::result(done).context("ioctl of a userfaultfd")?;
        Ok(())
    }
}

/// Writes into the memory of a process.
pub fn copy_to_process(pid: u32, to: *const u8, from: &[u8]) -> Result<()> {
    let remote = [RemoteIoVec { base: to.addr(), len: from.len() }];
    let pid = Pid::from_raw(pid.cast_signed());
    let written = process_vm_writev(pid, &[IoSlice::new(from)], &remote).context("process_vm_writev")?;
    ensure!(written == from.len(), "process_vm_writev wrote {written} of {} bytes", from.len());
    Ok(())
}

/// Copies out of a process.
pub fn copy_from_process(pid: u32, from: &[u8], to: &mut [u8]) -> Result<()> {
    let remote = [RemoteIoVec { base: from.as_ptr().addr(), len: from.len() }];
    let read = process_vm_readv(Pid::from_raw(pid.cast_signed()), &mut [IoSliceMut::new(to)], &remote);
    ensure!(read.context("process_vm_readv")? == from.len(), "process_vm_readv: short");
    Ok(())
}

/// Makes a huge page of a part of a mapping, of which a page is there.
pub fn collapse(bytes: &mut [u8]) -> Result<()> {
    const MADV_COLLAPSE: i32 = 25;
    // SAFETY: changes no contents; the range is mapped.
    let done = unsafe { libc::madvise(bytes.as_mut_ptr().cast(), bytes.len(), MADV_COLLAPSE) };
    Errno::result(done).map(drop).context("madvise(MADV_COLLAPSE)")
}

/// How long a fork takes in this process; the child ends at once.
pub fn fork_and_end() -> Result<Duration> {
    let start = Instant::now();
    // SAFETY: the child calls nothing but `_exit`.
    let child = match unsafe { fork() }.context("fork")? {
        // SAFETY: ends the child, and runs nothing on the way.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => child,
    };
    let took = start.elapsed();
    nix::sys::wait::waitpid(child, None).context("waitpid")?;
    Ok(took)
}
