//! Socket options, addresses as bytes, and unix socket diagnostics.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;

/// Reads an option into a buffer; how many bytes it has.
pub fn get_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Result<usize, SysError> {
    let mut len = value.len() as libc::socklen_t;
    let pointer = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `len` bytes to the buffer.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &raw mut len) };
    Errno::result(got).map_err(SysError::of("getsockopt"))?;
    Ok(len as usize)
}

/// Reads an option that is a number.
pub fn get_number(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, SysError> {
    let mut value = [0; 4];
    get_option(fd, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// Sets an option.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), SysError> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads the value.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("setsockopt"))
}

/// Sets an option that is a number.
pub fn set_number(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), SysError> {
    set_option(fd, level, name, &value.to_ne_bytes())
}

/// Which address of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its own.
    Own,
    /// That of its peer.
    Peer,
}

/// A socket's address as the kernel lays it out.
pub fn address(fd: BorrowedFd<'_>, end: End) -> Result<Vec<u8>, SysError> {
    let mut storage = [0_u8; size_of::<libc::sockaddr_storage>()];
    let mut len = storage.len() as libc::socklen_t;
    let pointer = storage.as_mut_ptr().cast();
    let got = match end {
        // SAFETY: the kernel writes at most `len` bytes.
        End::Own => unsafe { libc::getsockname(fd.as_raw_fd(), pointer, &raw mut len) },
        // SAFETY: as above.
        End::Peer => unsafe { libc::getpeername(fd.as_raw_fd(), pointer, &raw mut len) },
    };
    let call = if end == End::Own { "getsockname" } else { "getpeername" };
    Errno::result(got).map_err(SysError::of(call))?;
    Ok(storage.get(..len as usize).unwrap_or(&storage).to_vec())
}

/// Creates a socket.
pub fn create(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    let fd = Errno::result(fd).map_err(SysError::of("socket"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates two connected unix sockets.
pub fn pair(kind: i32) -> Result<(OwnedFd, OwnedFd), SysError> {
    let mut fds = [-1; 2];
    // SAFETY: the kernel writes two numbers.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) };
    Errno::result(made).map_err(SysError::of("socketpair"))?;
    let [a, b] = fds;
    // SAFETY: the kernel just made it for us.
    let a = unsafe { OwnedFd::from_raw_fd(a) };
    // SAFETY: as above.
    let b = unsafe { OwnedFd::from_raw_fd(b) };
    Ok((a, b))
}

/// Binds a socket to an address, as the kernel lays it out.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), SysError> {
    let len = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads the address.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), len) };
    Errno::result(bound).map(|_| ()).map_err(SysError::of("bind"))
}

/// Connects a socket to an address, as the kernel lays it out.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), SysError> {
    let len = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads the address.
    let done = unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), len) };
    Errno::result(done).map(|_| ()).map_err(SysError::of("connect"))
}

/// Lets a socket listen.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<(), SysError> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::listen(fd.as_raw_fd(), backlog) };
    Errno::result(done).map(|_| ()).map_err(SysError::of("listen"))
}

/// Bytes that wait to be read.
pub fn queued(fd: BorrowedFd<'_>) -> Result<i32, SysError> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one number.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Errno::result(done).map_err(SysError::of("ioctl(FIONREAD)"))?;
    Ok(bytes)
}

/// From `include/uapi/linux/{netlink,sock_diag,unix_diag}.h`.
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_PEER: u32 = 4;

/// Asks the kernel for one unix socket by its inode number; the netlink message it answers with.
pub fn unix_diag(inode: u32) -> Result<Vec<u8>, SysError> {
    let socket = create(libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_SOCK_DIAG)?;
    // struct nlmsghdr, then struct unix_diag_req: family, protocol, padding; states; inode; what to show; cookie.
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for word in [u32::MAX, inode, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    nix::unistd::write(socket.as_fd(), &request).map_err(SysError::of("write(NETLINK_SOCK_DIAG)"))?;
    let mut answer = vec![0; 4096];
    let len =
        nix::unistd::read(socket.as_fd(), &mut answer).map_err(SysError::of("read(NETLINK_SOCK_DIAG)"))?;
    answer.truncate(len);
    Ok(answer)
}
