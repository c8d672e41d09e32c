//! Resource limits of other processes.

use nix::errno::Errno;

use crate::error::SysError;

/// Sets the soft and the hard limit of a process's descriptor numbers (`RLIMIT_NOFILE`).
pub fn set_descriptors(pid: i32, soft: u64, hard: u64) -> Result<(), SysError> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads a live variable, and writes nothing.
    let set = unsafe { libc::prlimit64(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    Errno::result(set).map(drop).map_err(SysError::of("prlimit(RLIMIT_NOFILE)"))
}
