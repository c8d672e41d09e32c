//! POSIX message queues: mq_open(2) and its kin.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::error::SysError;

/// How many messages a queue has room for, how large they may be, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// `mq_maxmsg`.
    pub messages: u64,
    /// `mq_msgsize`.
    pub size: u64,
    /// `mq_curmsgs`.
    pub waiting: u64,
}

/// `struct mq_attr` of `include/uapi/linux/mqueue.h`: flags, most messages, their size, messages there are, and four more.
type RawAttributes = [i64; 8];

/// Opens a queue of the ipc namespace that we are in; its name has no slash.
pub fn open(name: &CStr, flags: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: the name ends in a zero byte, and no attributes are read without O_CREAT.
    let fd = unsafe {
        libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags | libc::O_CLOEXEC, 0, std::ptr::null::<()>())
    };
    owned(fd)
}

/// Makes one.
pub fn create(name: &CStr, mode: u32, attributes: Attributes) -> Result<OwnedFd, SysError> {
    let Attributes { messages, size, .. } = attributes;
    let raw: RawAttributes = [0, messages.cast_signed(), size.cast_signed(), 0, 0, 0, 0, 0];
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the name ends in a zero byte, and the kernel reads the attributes.
    let fd = unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, mode, raw.as_ptr()) };
    owned(fd)
}

fn owned(fd: i64) -> Result<OwnedFd, SysError> {
    let fd = Errno::result(fd).map_err(SysError::of("mq_open"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes its name from one.
pub fn unlink(name: &CStr) -> Result<(), SysError> {
    // SAFETY: the name ends in a zero byte.
    let done = unsafe { libc::syscall(libc::SYS_mq_unlink, name.as_ptr()) };
    Errno::result(done).map(drop).map_err(SysError::of("mq_unlink"))
}

/// What a queue is.
pub fn attributes(queue: BorrowedFd<'_>) -> Result<Attributes, SysError> {
    let mut raw: RawAttributes = [0; 8];
    let none = std::ptr::null::<()>();
    // SAFETY: the kernel writes the attributes.
    let done = unsafe { libc::syscall(libc::SYS_mq_getsetattr, queue.as_raw_fd(), none, raw.as_mut_ptr()) };
    Errno::result(done).map_err(SysError::of("mq_getsetattr"))?;
    let [_, messages, size, waiting, ..] = raw.map(i64::cast_unsigned);
    Ok(Attributes { messages, size, waiting })
}

/// Takes the message that is next, and its priority, out of a queue whose messages are not larger than the buffer.
pub fn receive(queue: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, u32), SysError> {
    let mut priority = 0_u32;
    let (start, length, now) = (buffer.as_mut_ptr(), buffer.len(), [0_i64; 2]);
    // SAFETY: the kernel writes to the buffer and to the priority, and reads a time.
    let got = unsafe {
        libc::syscall(
            libc::SYS_mq_timedreceive,
            queue.as_raw_fd(),
            start,
            length,
            &raw mut priority,
            now.as_ptr(),
        )
    };
    let length = Errno::result(got).map_err(SysError::of("mq_timedreceive"))?;
    Ok((length as usize, priority))
}

/// Puts a message into a queue; if there is no room, waits until a time since the epoch.
pub fn send(queue: BorrowedFd<'_>, bytes: &[u8], priority: u32, until: Duration) -> Result<(), SysError> {
    let until = [until.as_secs(), u64::from(until.subsec_nanos())];
    let (fd, start, length) = (queue.as_raw_fd(), bytes.as_ptr(), bytes.len());
    // SAFETY: the kernel reads the bytes and a time.
    let done = unsafe { libc::syscall(libc::SYS_mq_timedsend, fd, start, length, priority, until.as_ptr()) };
    Errno::result(done).map(drop).map_err(SysError::of("mq_timedsend"))
}
