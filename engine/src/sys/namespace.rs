//! Entering namespaces, and being born in new ones.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;

use crate::error::SysError;

/// The pid of the init of a pid namespace.
pub const INIT: i32 = 1;

/// Moves us into the namespaces of a process that these `CLONE_NEW*` flags name, all or none of them (Linux 5.8). Of a pid
/// namespace, it is our children that will be in it.
pub fn enter(process: impl AsFd, flags: i32) -> Result<(), SysError> {
    // SAFETY: takes numbers only. The engine has one thread, so that nobody else's root or directories change.
    let entered = unsafe { libc::setns(process.as_fd().as_raw_fd(), flags) };
    Errno::result(entered).map(drop).map_err(SysError::of("setns"))
}

/// Forks with the pid `pid` in the pid namespace of the child, which is born in new namespaces as these flags of
/// `clone3(2)` say; with `CLONE_PARENT`, it is a child of our parent.
///
/// Returns `None` in the child, which is a copy of the calling thread alone.
pub fn fork_with_pid(pid: i32, flags: i32) -> Result<Option<i32>, SysError> {
    let set_tid = [pid];
    // SAFETY: plain numbers; zero is a valid value of each.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.flags = flags as u64;
    // With CLONE_PARENT the exit signal is inherited, and giving one is refused (`kernel/fork.c`).
    args.exit_signal = if flags & libc::CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 };
    args.set_tid = set_tid.as_ptr().expose_provenance() as u64;
    args.set_tid_size = 1;
    // SAFETY: no memory is shared with the child; it goes on here with a copy of everything, as after fork().
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(None),
        1.. => Ok(Some(result as i32)),
        _ => Err(SysError::last("clone3(set_tid)")),
    }
}

/// Sets the domain name of our UTS namespace (setdomainname(2)).
pub fn set_domain_name(name: &str) -> Result<(), SysError> {
    // SAFETY: the kernel reads as many bytes as the name has.
    let set = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    Errno::result(set).map(drop).map_err(SysError::of("setdomainname"))
}
