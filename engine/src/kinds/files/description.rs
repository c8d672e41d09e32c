//! What every open file description has, whichever kind it is of: flags, an owner of its signals, and lines of tables.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::fcntl::OFlag;
use proto::messages::{FdinfoEntry, FownEntry};

use super::{ErasedFileKind, FdFacts};
use crate::error::{Context as _, Problem, SysError};
use crate::sys::fcntl;

/// Sets who gets a file's signals. Who is not there any more does not get them, as if it had ended beside the tree.
pub(super) fn set_owner(fd: BorrowedFd<'_>, owner: &FownEntry) -> Result<(), Problem> {
    match fcntl::set_owner(fd, owner) {
        Err(SysError { errno: nix::errno::Errno::ESRCH, .. }) => {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
            let pid = owner.pid as i32;
            log::warn!("{}: process {pid}, which was to get its signals, does not exist", link.display());
            Ok(())
        }
        set => set.while_trying_to("set the owner of its signals"),
    }
}

/// Gives a new description flags, position and owner that creating it did not.
pub fn set_common(fd: BorrowedFd<'_>, flags: u32, owner: Option<&FownEntry>) -> Result<(), Problem> {
    if let Some(owner) = owner {
        set_owner(fd, owner)?;
    }
    let settable = OFlag::O_APPEND | OFlag::O_ASYNC | OFlag::O_DIRECT | OFlag::O_NOATIME | OFlag::O_NONBLOCK;
    let wanted = OFlag::from_bits_truncate(flags as i32) & settable;
    let is = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).map_err(SysError::of("fcntl(F_GETFL)"))?;
    if OFlag::from_bits_truncate(is) & settable != wanted {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(wanted))
            .map_err(SysError::of("fcntl(F_SETFL)"))?;
    }
    Ok(())
}

/// A line of a descriptor table.
pub(super) fn entry_of(fd: &FdFacts<'_>, kind: &dyn ErasedFileKind, id: u32) -> FdinfoEntry {
    let flags = flags_of(fd.cloexec == Some(true));
    FdinfoEntry { id, flags, r#type: kind.file_type().into(), fd: fd.fd as u32, ..FdinfoEntry::default() }
}

/// Flags of a descriptor itself.
pub(super) fn flags_of(cloexec: bool) -> u32 {
    if cloexec { libc::FD_CLOEXEC as u32 } else { 0 }
}
