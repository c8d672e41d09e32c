//! Memory of another process.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use zerocopy::{FromBytes, IntoBytes};

use crate::error::SysError;

/// The memory of one process, reached through `/proc/PID/mem`, which ignores the protection of pages (as `ptrace(2)`
/// does) and so writes code that nobody can write.
#[derive(Debug, Clone)]
pub struct Memory {
    pid: i32,
    file: Arc<OnceLock<File>>,
}

impl Memory {
    /// Opens the memory of a process that we trace.
    pub fn open(pid: i32) -> Result<Self, SysError> {
        let memory = Self::later(pid);
        memory.file()?;
        Ok(memory)
    }

    /// The same, opened when it is needed for the first time.
    pub fn later(pid: i32) -> Self {
        Self { pid, file: Arc::default() }
    }

    fn file(&self) -> Result<&File, SysError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let path = format!("/proc/{}/mem", self.pid);
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(SysError::io("open(/proc/PID/mem)"))?;
        Ok(self.file.get_or_init(|| file))
    }

    /// Whose it is.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Reads exactly `buffer.len()` bytes.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), SysError> {
        self.file()?.read_exact_at(buffer, address).map_err(SysError::io("read(/proc/PID/mem)"))
    }

    /// Reads one value.
    pub fn read_value<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, SysError> {
        let mut value = T::new_zeroed();
        self.read(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes all bytes.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), SysError> {
        self.file()?.write_all_at(bytes, address).map_err(SysError::io("write(/proc/PID/mem)"))
    }

    /// Reads ranges, which have that many bytes in all, one behind the other into `buffer`: by one call as far as they are
    /// readable, and the rest each by itself.
    pub fn read_ranges(&self, ranges: &[(u64, usize)], mut buffer: &mut [u8]) -> Result<(), SysError> {
        /// The kernel takes `UIO_MAXIOV` of them.
        const AT_ONCE: usize = 1024;
        for ranges in ranges.chunks(AT_ONCE) {
            let bytes = ranges.iter().map(|(_, len)| len).sum::<usize>().min(buffer.len());
            let (now, later) = buffer.split_at_mut(bytes);
            let remote: Vec<RemoteIoVec> =
                ranges.iter().map(|&(base, len)| RemoteIoVec { base: base as usize, len }).collect();
            let read = process_vm_readv(Pid::from_raw(self.pid), &mut [IoSliceMut::new(now)], &remote);
            let done = match read {
                Err(Errno::ESRCH) => return Err(SysError { call: "process_vm_readv", errno: Errno::ESRCH }),
                // Why it could not is told below.
                read => read.unwrap_or(0),
            };
            self.read_each(ranges, now, done)?;
            buffer = later;
        }
        Ok(())
    }

    /// Reads ranges each by itself, without the first `skip` bytes, which are there. Nothing is pinned by that.
    pub fn read_each(
        &self,
        ranges: &[(u64, usize)],
        buffer: &mut [u8],
        mut skip: usize,
    ) -> Result<(), SysError> {
        let mut at = 0;
        for &(address, len) in ranges {
            let done = skip.min(len);
            skip -= done;
            if done < len {
                let rest = buffer.get_mut(at + done..at + len).unwrap_or_default();
                self.read(address + done as u64, rest)?;
            }
            at += len;
        }
        Ok(())
    }

    /// Reads readable memory with as few copies as the kernel needs; the number of bytes read, which is smaller where
    /// a page cannot be read.
    pub fn read_fast(&self, address: u64, buffer: &mut [u8]) -> Result<usize, SysError> {
        let remote = [RemoteIoVec { base: address as usize, len: buffer.len() }];
        process_vm_readv(Pid::from_raw(self.pid), &mut [IoSliceMut::new(buffer)], &remote)
            .map_err(SysError::of("process_vm_readv"))
    }

    /// Writes several slices one behind the other.
    pub fn write_parts(&self, address: u64, parts: &[IoSlice<'_>]) -> Result<(), SysError> {
        let mut at = address;
        for part in parts {
            self.write(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// Writes slices to addresses of a process, whose pages are faulted in as by its own writes.
pub fn write_scattered(pid: i32, parts: &[(u64, &[u8])]) -> Result<(), SysError> {
    /// The kernel takes `UIO_MAXIOV` of each.
    const AT_ONCE: usize = 1024;
    for parts in parts.chunks(AT_ONCE) {
        let local: Vec<IoSlice<'_>> = parts.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
        let remote: Vec<RemoteIoVec> = parts
            .iter()
            .map(|(address, bytes)| RemoteIoVec { base: *address as usize, len: bytes.len() })
            .collect();
        let written = process_vm_writev(Pid::from_raw(pid), &local, &remote)
            .map_err(SysError::of("process_vm_writev"))?;
        if written != parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() {
            return Err(SysError { call: "process_vm_writev (short)", errno: Errno::EFAULT });
        }
    }
    Ok(())
}
