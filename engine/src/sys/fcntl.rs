//! `fcntl(2)`: who gets a file's signals, and duplicates under high numbers.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Uid, geteuid, getuid, setresuid};
use proto::messages::FownEntry;

use crate::error::SysError;

/// From `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;

/// `struct f_owner_ex`.
#[repr(C)]
#[derive(Default)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

/// Who gets the file's signals, and which signal.
pub fn owner(fd: BorrowedFd<'_>) -> Result<FownEntry, SysError> {
    let fd = fd.as_raw_fd();
    let mut owner = OwnerEx::default();
    // SAFETY: the kernel writes to a live variable.
    let got = unsafe { libc::fcntl(fd, F_GETOWN_EX, &raw mut owner) };
    Errno::result(got).map_err(SysError::of("fcntl(F_GETOWN_EX)"))?;
    // SAFETY: takes numbers only.
    let signum = unsafe { libc::fcntl(fd, F_GETSIG) };
    let signum = Errno::result(signum).map_err(SysError::of("fcntl(F_GETSIG)"))?;
    let mut uids = [0_u32; 2];
    if owner.pid != 0 {
        // SAFETY: the kernel writes two numbers.
        let got = unsafe { libc::fcntl(fd, F_GETOWNER_UIDS, uids.as_mut_ptr()) };
        Errno::result(got).map_err(SysError::of("fcntl(F_GETOWNER_UIDS)"))?;
    }
    let [uid, euid] = uids;
    let (pid_type, pid) = if owner.pid == 0 { (0, 0) } else { (owner.kind as u32, owner.pid as u32) };
    Ok(FownEntry { uid, euid, signum: signum as u32, pid_type, pid })
}

/// Sets both, where they are not what a new file has. An owner is set as the user who did so the first time, whose
/// right to send signals counts.
pub fn set_owner(fd: BorrowedFd<'_>, entry: &FownEntry) -> Result<(), SysError> {
    let ours = (getuid(), geteuid());
    let theirs = (Uid::from_raw(entry.uid), Uid::from_raw(entry.euid));
    if entry.pid == 0 || ours == theirs {
        return set_owner_as_we_are(fd, entry);
    }
    // The saved one lets us come back.
    setresuid(theirs.0, theirs.1, ours.1).map_err(SysError::of("setresuid"))?;
    let set = set_owner_as_we_are(fd, entry);
    setresuid(ours.0, ours.1, ours.1).map_err(SysError::of("setresuid"))?;
    set
}

fn set_owner_as_we_are(fd: BorrowedFd<'_>, entry: &FownEntry) -> Result<(), SysError> {
    let fd = fd.as_raw_fd();
    if entry.signum != 0 {
        // SAFETY: takes numbers only.
        let set = unsafe { libc::fcntl(fd, F_SETSIG, entry.signum) };
        Errno::result(set).map_err(SysError::of("fcntl(F_SETSIG)"))?;
    }
    if entry.pid != 0 {
        let owner = OwnerEx { kind: entry.pid_type as i32, pid: entry.pid as i32 };
        // SAFETY: the kernel reads a live variable.
        let set = unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) };
        Errno::result(set).map_err(SysError::of("fcntl(F_SETOWN_EX)"))?;
    }
    Ok(())
}

/// Whether anybody has a lock on a part of the file, but for locks that are the descriptor table's that we have (`F_GETLK`).
pub fn may_have_lock(fd: BorrowedFd<'_>) -> bool {
    let (l_type, l_whence) = (libc::F_WRLCK as i16, libc::SEEK_SET as i16);
    let mut lock = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the kernel writes to a live variable.
    let asked = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    asked < 0 || lock.l_type != libc::F_UNLCK as i16
}

/// Lets nobody get the file's signals.
pub fn clear_owner(fd: BorrowedFd<'_>) -> Result<(), SysError> {
    let nobody = OwnerEx { kind: 1, pid: 0 };
    // SAFETY: the kernel reads a live variable.
    let set = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const nobody) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("fcntl(F_SETOWN_EX)"))
}

/// A descriptor that we were started with; none if it is not open.
pub fn borrow(fd: i32) -> Option<BorrowedFd<'static>> {
    // SAFETY: takes numbers only.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if fd < 0 || flags < 0 {
        return None;
    }
    // SAFETY: it is open, and what we were started with is nobody's to close.
    Some(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A duplicate under the lowest free number that is not below `number` (`F_DUPFD_CLOEXEC`).
pub fn duplicate_above(fd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, SysError> {
    let made =
        fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(number)).map_err(SysError::of("fcntl(F_DUPFD_CLOEXEC)"))?;
    // SAFETY: the kernel has just given us this number, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// Whether a file, open for reading and writing, is open under no other description, and mapped nowhere: nobody else gets a write
/// lease, which is given back at once.
pub fn is_open_nowhere_else(file: BorrowedFd<'_>) -> bool {
    // SAFETY: takes numbers only.
    let leased = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    if leased < 0 {
        return false;
    }
    // SAFETY: as above.
    let given_back = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    given_back == 0
}
