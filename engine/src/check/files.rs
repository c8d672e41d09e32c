//! Descriptors, mounts and file systems.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use crate::error::SysError;
use crate::procfs::{fdinfo, integer};
use crate::sys::probe;

use super::Answer;

pub(super) fn timerfd_ticks() -> Answer {
    let asked = || {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty());
        probe::timerfd_set_ticks(timer.map_err(SysError::of("timerfd_create"))?, 1)
    };
    asked().into()
}

pub(super) fn tun() -> Answer {
    let asked = || {
        let tun = File::options().read(true).write(true).open("/dev/net/tun");
        probe::tun_features(tun.map_err(SysError::io("open(/dev/net/tun)"))?)
    };
    asked().map(drop).into()
}

/// A lock must show among the lines of its descriptor.
pub(super) fn fdinfo_lock() -> Answer {
    let asked = || {
        let file = memfd_create(c"check", MFdFlags::MFD_CLOEXEC).map_err(SysError::of("memfd_create"))?;
        let file = Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock);
        let file = file.map_err(|(_, errno)| SysError { call: "flock", errno })?;
        read_fdinfo(file.as_raw_fd())
    };
    match asked() {
        Ok(Some(info)) if info.value("lock").is_some() => Answer::Yes,
        Ok(_) => Answer::No("no lock line in /proc/PID/fdinfo".to_owned()),
        Err(e) => Answer::No(e.to_string()),
    }
}

pub(super) fn mnt_id() -> Answer {
    match read_fdinfo(0) {
        Ok(Some(_)) => Answer::Yes,
        Ok(None) => Answer::No("no mnt_id line in /proc/PID/fdinfo".to_owned()),
        Err(e) => Answer::No(e.to_string()),
    }
}

/// None where the file is not as we need it: that is how a missing mnt_id shows.
fn read_fdinfo(fd: i32) -> Result<Option<fdinfo::FdInfo>, SysError> {
    let text = std::fs::read(format!("/proc/self/fdinfo/{fd}")).map_err(SysError::io("open(fdinfo)"))?;
    Ok(fdinfo::parse(&text).ok())
}

pub(super) fn openat2() -> Answer {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    let opened = nix::fcntl::openat2(nix::fcntl::AT_FDCWD, "/", how);
    opened.map(drop).map_err(SysError::of("openat2")).into()
}

/// The descriptors are none, so a kernel that knows the flag gets as far as `EBADF`.
pub(super) fn move_mount_set_group() -> Answer {
    match probe::move_mount_set_group() {
        Ok(()) | Err(SysError { errno: Errno::EBADF, .. }) => Answer::Yes,
        Err(e) => Answer::No(e.to_string()),
    }
}

pub(super) fn autofs() -> Answer {
    file_system("autofs")
}

/// Whether a file system is there; its module may still have to be loaded.
fn file_system(name: &str) -> Answer {
    match std::fs::read_to_string("/proc/filesystems") {
        Ok(text) if text.lines().any(|line| line.split_whitespace().last() == Some(name)) => Answer::Yes,
        Ok(_) => Answer::No(format!("no {name} in /proc/filesystems")),
        Err(e) => Answer::No(SysError::io("open(/proc/filesystems)")(e).to_string()),
    }
}

pub(super) fn loginuid() -> Answer {
    let read = std::fs::read("/proc/self/loginuid").map_err(SysError::io("open(/proc/self/loginuid)"));
    match read.map(|text| integer::loginuid(&text)) {
        Ok(Ok(_)) => probe::in_child(rewrite_loginuid).and_then(written).into(),
        Ok(Err(e)) => Answer::No(e.to_string()),
        Err(e) => Answer::No(e.to_string()),
    }
}

/// Writes the value that is there.
fn rewrite_loginuid() -> Result<(), Errno> {
    let path = "/proc/self/loginuid";
    let io = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    let text = std::fs::read(path).map_err(io)?;
    std::fs::write(path, text).map_err(io)
}

fn written(result: Result<(), Errno>) -> Result<(), SysError> {
    result.map_err(SysError::of("write(/proc/self/loginuid)"))
}

pub(super) fn lsm() -> Answer {
    match std::fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(names) if names.split(',').any(|name| matches!(name.trim(), "apparmor" | "selinux")) => {
            Answer::Yes
        }
        Ok(names) => Answer::No(format!("neither apparmor nor selinux is active, only {}", names.trim())),
        Err(e) => Answer::No(SysError::io("open(/sys/kernel/security/lsm)")(e).to_string()),
    }
}

pub(super) fn apparmor_stacking() -> Answer {
    let path = "/sys/kernel/security/apparmor/features/domain/stack";
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim() == "yes" => Answer::Yes,
        Ok(_) => Answer::No("apparmor says no".to_owned()),
        Err(e) => Answer::No(SysError::io("open(apparmor/features/domain/stack)")(e).to_string()),
    }
}

/// A mapped file of an overlay must show as itself in `/proc/PID/maps`; that takes a mount to see.
pub(super) fn overlayfs_maps() -> Answer {
    match super::namespaces::overlay_maps() {
        Ok(()) => Answer::Yes,
        Err(reason) => Answer::No(reason),
    }
}

pub(super) fn legacy_iptables() -> Answer {
    present("/proc/self/net/ip_tables_names")
}

pub(super) fn iptables() -> Answer {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("iptables-restore").is_file());
    if found { Answer::Yes } else { Answer::No("no iptables-restore in PATH".to_owned()) }
}

fn present(path: &str) -> Answer {
    if Path::new(path).exists() { Answer::Yes } else { Answer::No(format!("no {path}")) }
}
