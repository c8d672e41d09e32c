//! `userfaultfd(2)`: giving pages to another process that has none there yet.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;

// From `include/uapi/linux/userfaultfd.h`: `_IOWR(0xAA, …)` of structures of 3, 4 and 5 words.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;

/// Pages that are missing in some mappings of a process are ours to give, until this is dropped.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl Userfault {
    /// What the call that makes the descriptor, in the process itself, is given: `UFFD_USER_MODE_ONLY`, which needs no
    /// privilege, and close-on-exec.
    pub const FLAGS: i32 = 1 | libc::O_CLOEXEC;

    /// Takes a new descriptor.
    pub fn new(fd: OwnedFd) -> Result<Self, SysError> {
        let faults = Self(fd);
        faults.ioctl("ioctl(UFFDIO_API)", UFFDIO_API, &mut [API, 0, 0])?;
        Ok(faults)
    }

    /// Takes over a mapping.
    pub fn register(&self, start: u64, len: u64) -> Result<(), SysError> {
        let mut request = [start, len, REGISTER_MODE_MISSING, 0];
        self.ioctl("ioctl(UFFDIO_REGISTER)", UFFDIO_REGISTER, &mut request)
    }

    /// Gives pages.
    pub fn copy(&self, to: u64, from: &[u8]) -> Result<(), SysError> {
        let mut done = 0;
        while let Some(rest) = from.get(done as usize..).filter(|rest| !rest.is_empty()) {
            let source = rest.as_ptr().expose_provenance() as u64;
            let mut request = [to + done, source, rest.len() as u64, 0, 0];
            let copied = self.ioctl("ioctl(UFFDIO_COPY)", UFFDIO_COPY, &mut request);
            let [.., count] = request;
            match copied {
                Ok(()) => return Ok(()),
                // Interrupted half way.
                Err(SysError { errno: Errno::EAGAIN, .. }) => done += (count as i64).max(0) as u64,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn ioctl<const N: usize>(
        &self,
        call: &'static str,
        number: u64,
        request: &mut [u64; N],
    ) -> Result<(), SysError> {
        // SAFETY: the requests used here read and write structures of as many words; pages are written in another process.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), number, request.as_mut_ptr()) };
        Errno::result(done).map(drop).map_err(SysError::of(call))
    }
}
