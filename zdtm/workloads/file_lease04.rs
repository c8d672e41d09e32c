//! Whoever opens a file with a lease is noticed by who has the lease, by the signal and the descriptor that were asked for.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const F_SETSIG: i32 = 10;
const SIGNAL: i32 = 41;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    std::fs::write(&path, "contents")?;
    let file = OpenOptions::new().read(true).open(&path)?;
    let fd = file.as_raw_fd();
    // SAFETY: a set of signals is plain memory.
    let mut signals: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is a live variable.
    unsafe { libc::sigaddset(&raw mut signals, SIGNAL) };
    // SAFETY: the set is a live variable.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) };
    let set = |command: i32, value: i32| -> Result<i32, Failure> {
        // SAFETY: takes numbers only.
        Ok(Errno::result(unsafe { libc::fcntl(fd, command, value) })?)
    };
    set(F_SETSIG, SIGNAL)?;
    set(libc::F_SETLEASE, libc::F_RDLCK)?;
    // Another holder of the same description, with another number for it.
    let twin = file.try_clone()?;
    let child = cx.child(|cx| {
        cx.park()?;
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let error = opened.err().and_then(|e| e.raw_os_error());
        ensure_eq!(error, Some(libc::EAGAIN), "opening a file with a lease");
        Ok(())
    })?;
    cx.barrier()?;
    child.join()?;
    let wait = libc::timespec { tv_sec: 5, tv_nsec: 0 };
    // SAFETY: what a signal tells is plain memory.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: all three are live variables.
    let got = unsafe { libc::sigtimedwait(&raw const signals, &raw mut info, &raw const wait) };
    ensure_eq!(Errno::result(got), Ok(SIGNAL), "the signal");
    // `si_band` and `si_fd` come behind signal, error, code and a padding, all of 32 bits.
    // SAFETY: the structure has 128 bytes, and any bytes are numbers.
    let told = unsafe { *(&raw const info).cast::<[i32; 8]>() };
    ensure_eq!(told[6], fd, "the descriptor");
    // SAFETY: takes numbers only.
    let lease = unsafe { libc::fcntl(twin.as_raw_fd(), libc::F_GETLEASE) };
    ensure_eq!(lease, libc::F_UNLCK, "the lease, which is being broken");
    set(libc::F_SETLEASE, libc::F_UNLCK)?;
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
    Ok(())
}
