//! Sockets of any family, addresses and options as bytes, for workloads about what the standard library does not know.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use zdtm::workload::{Failure, Verdict};

pub(crate) fn make(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: socket takes numbers only.
    let fd = Errno::result(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Verdict {
    let len = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as there are.
    Errno::result(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), len) })?;
    Ok(())
}

pub(crate) fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> Verdict {
    let len = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as there are.
    Errno::result(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), len) })?;
    Ok(())
}

pub(crate) fn address(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; size_of::<libc::sockaddr_storage>()];
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes as many bytes as there is room for.
    let got = unsafe { libc::getsockname(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut len) };
    Errno::result(got)?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Verdict {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as there are.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    Errno::result(set)?;
    Ok(())
}

pub(crate) fn get(fd: BorrowedFd<'_>, level: i32, name: i32, most: usize) -> Result<Vec<u8>, Failure> {
    let mut value = vec![0; most];
    let mut len = most as libc::socklen_t;
    // SAFETY: the kernel writes as many bytes as there is room for.
    let got =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) };
    Errno::result(got)?;
    value.truncate(len as usize);
    Ok(value)
}
