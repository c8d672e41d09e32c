//! Entering namespaces, and being born in new ones.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

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

/// From `include/uapi/linux/nsfs.h`, documented in ioctl_ns(2); since Linux 4.9, the last since 4.11.
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_PARENT: libc::c_ulong = 0xb702;
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// The user namespace that a namespace of another type belongs to.
pub fn owning_user_namespace(space: impl AsFd) -> Result<OwnedFd, SysError> {
    related(space, NS_GET_USERNS, "ioctl(NS_GET_USERNS)")
}

/// The parent of a user or pid namespace; `EPERM` if that is beyond our own.
pub fn parent(space: impl AsFd) -> Result<OwnedFd, SysError> {
    related(space, NS_GET_PARENT, "ioctl(NS_GET_PARENT)")
}

/// The flag of the type of a namespace (`CLONE_NEW*`); `ENOTTY` if the file is none. Since Linux 4.11.
pub fn flag_of(space: impl AsFd) -> Result<i32, SysError> {
    // SAFETY: takes no argument.
    let flag = unsafe { libc::ioctl(space.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    Errno::result(flag).map_err(SysError::of("ioctl(NS_GET_NSTYPE)"))
}

fn related(space: impl AsFd, request: libc::c_ulong, call: &'static str) -> Result<OwnedFd, SysError> {
    // SAFETY: takes no argument.
    let fd = unsafe { libc::ioctl(space.as_fd().as_raw_fd(), request) };
    let fd = Errno::result(fd).map_err(SysError::of(call))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user who made a user namespace, as our own numbers users.
pub fn owner(space: impl AsFd) -> Result<u32, SysError> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one number, which lives as long as the call.
    let done = unsafe { libc::ioctl(space.as_fd().as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    Errno::result(done).map(|_| uid).map_err(SysError::of("ioctl(NS_GET_OWNER_UID)"))
}
