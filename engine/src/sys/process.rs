//! Creating, comparing and asking processes.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::error::SysError;
use crate::supervise::LastDeeds;

/// What two tasks may share, as `kcmp(2)` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kcmp {
    /// `KCMP_VM`: the address space.
    Vm = 1,
    /// `KCMP_FILES`: the descriptor table.
    Files = 2,
    /// `KCMP_FS`: root, working directory, umask.
    Fs = 3,
    /// `KCMP_SIGHAND`: signal handlers.
    Sighand = 4,
}

/// Orders two tasks' resources; equal means shared. The order means nothing but stays as long as both live.
pub fn kcmp(kind: Kcmp, a: i32, b: i32) -> Result<std::cmp::Ordering, SysError> {
    compare(kind as i32, a, b, 0, 0)
}

/// Orders two descriptors' open file descriptions (`KCMP_FILE`); equal means the same description.
pub fn kcmp_file(a: (i32, i32), b: (i32, i32)) -> Result<std::cmp::Ordering, SysError> {
    compare(0, a.0, b.0, a.1 as u64, b.1 as u64)
}

/// Whether descriptor `fd` is the file that an epoll watches under a number (`KCMP_EPOLL_TFD`, Linux 4.13); of several
/// watches under the same number, `watch` counts those before.
pub fn kcmp_watched(fd: (i32, i32), epoll: (i32, i32), watch: (i32, u32)) -> Result<bool, SysError> {
    const KCMP_EPOLL_TFD: i32 = 7;
    // struct kcmp_epoll_slot: efd, tfd, toff (`include/uapi/linux/kcmp.h`).
    let slot = [epoll.1 as u32, watch.0 as u32, watch.1];
    let call = libc::SYS_kcmp;
    // SAFETY: the kernel reads the slot, which lives as long as the call.
    match unsafe { libc::syscall(call, fd.0, epoll.0, KCMP_EPOLL_TFD, fd.1 as u64, slot.as_ptr()) } {
        0 => Ok(true),
        1.. => Ok(false),
        _ => Err(SysError::last("kcmp(KCMP_EPOLL_TFD)")),
    }
}

fn compare(kind: i32, a: i32, b: i32, x: u64, y: u64) -> Result<std::cmp::Ordering, SysError> {
    // SAFETY: takes numbers only; the operations used here take no pointer.
    match unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, x, y) } {
        0 => Ok(std::cmp::Ordering::Equal),
        1 => Ok(std::cmp::Ordering::Less),
        2 => Ok(std::cmp::Ordering::Greater),
        // 3 means "not equal, but no order"; the kernel documents it as unused.
        3.. => Err(SysError { call: "kcmp", errno: Errno::EINVAL }),
        _ => Err(SysError::last("kcmp")),
    }
}

/// Head and length of a thread's robust futex list (`get_robust_list(2)`).
pub fn robust_list(tid: i32) -> Result<(u64, u64), SysError> {
    let mut head = 0_u64;
    let mut len = 0_u64;
    // SAFETY: the kernel writes two words to two live variables.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    if result < 0 { Err(SysError::last("get_robust_list")) } else { Ok((head, len)) }
}

/// Nice value, policy, priority and deadline parameters of a thread.
pub fn sched_getattr(tid: i32) -> Result<libc::sched_attr, SysError> {
    let mut attr = MaybeUninit::<libc::sched_attr>::zeroed();
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, attr.as_mut_ptr(), size, 0) };
    if result < 0 {
        return Err(SysError::last("sched_getattr"));
    }
    // SAFETY: plain numbers, zeroed and then filled in by the kernel.
    Ok(unsafe { attr.assume_init() })
}

/// Has this thread run long at a time: whoever wakes up and runs for shorter gets its processor at once, and it gets as much time in
/// all as before (`sched_attr::sched_runtime` of `SCHED_OTHER`, Linux 6.12; older kernels ignore it).
pub fn run_long_at_a_time() -> Result<(), SysError> {
    /// The longest that the kernel takes, in nanoseconds.
    const LONGEST: u64 = 100_000_000;
    let mut attr = sched_getattr(0)?;
    if attr.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attr.sched_runtime = LONGEST;
    // SAFETY: the kernel reads as many bytes as the struct says that it has, and changes this thread only.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if result < 0 { Err(SysError::last("sched_setattr")) } else { Ok(()) }
}

/// The processors a thread may run on: bit N is processor N.
pub fn sched_getaffinity(tid: i32) -> Result<Vec<u8>, SysError> {
    let mut mask = vec![0_u8; 1024];
    let pointer = mask.as_mut_ptr();
    // SAFETY: the kernel writes at most as many bytes as the buffer has.
    let written = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), pointer) };
    if written < 0 {
        return Err(SysError::last("sched_getaffinity"));
    }
    mask.truncate(written as usize);
    Ok(mask)
}

/// Whether `timer_create` takes an id where it is told to (`PR_TIMER_CREATE_RESTORE_IDS`, Linux 6.16).
pub fn can_choose_timer_ids() -> bool {
    const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
    const PR_TIMER_CREATE_RESTORE_IDS_GET: i32 = 2;
    // SAFETY: takes numbers only, and changes nothing.
    let answer =
        unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) };
    answer >= 0
}

/// From `include/uapi/linux/ioprio.h`.
pub const IOPRIO_WHO_PROCESS: i32 = 1;

/// A thread's I/O priority: class and level.
pub fn ioprio_get(tid: i32) -> Result<u32, SysError> {
    // SAFETY: takes numbers only.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    if priority < 0 { Err(SysError::last("ioprio_get")) } else { Ok(priority as u32) }
}

/// Forks.
///
/// Returns `None` in the child. Our process has one thread when this is called, so the child may do anything.
pub fn fork() -> Result<Option<i32>, SysError> {
    // SAFETY: the caller is single-threaded, as the engine is throughout.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid @ 1.. => Ok(Some(pid)),
        _ => Err(SysError::last("fork")),
    }
}

/// Ends this process at once: no destructor runs, and nothing is flushed, as befits a fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return, and runs no handlers.
    unsafe { libc::_exit(code) }
}

/// Ignores a signal from now on.
pub fn ignore(signal: nix::sys::signal::Signal) -> Result<(), SysError> {
    // SAFETY: installs no handler.
    unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) }
        .map(|_| ())
        .map_err(SysError::of("signal"))
}

/// Holds a signal back from this thread from now on.
pub fn block(signal: nix::sys::signal::Signal) -> Result<(), SysError> {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(signal);
    set.thread_block().map_err(SysError::of("sigprocmask"))
}

/// Waits, in a process that was just forked, for whoever will trace it; ends when all holders of the other end of the
/// pipe do. Our own copy of that end is closed first.
pub fn wait_to_be_taken(pipe: &OwnedFd, other_end: &OwnedFd) -> ! {
    let mut byte = 0_u8;
    // SAFETY: closes a descriptor that this process, which never returns from here, does not use again.
    unsafe { libc::close(other_end.as_raw_fd()) };
    // SAFETY: writes at most one byte to a live variable.
    unsafe { libc::read(pipe.as_raw_fd(), (&raw mut byte).cast(), 1) };
    // SAFETY: does not return, and runs no handlers.
    unsafe { libc::_exit(0) }
}

/// `TCP_REPAIR` of `include/uapi/linux/tcp.h`.
const TCP_REPAIR: i32 = 19;

/// What a forked guardian does: waits for a byte from its parent, and kills these tasks when the end of the pipe comes
/// instead, after it has done what else is to be done. It makes plain system calls only, as a fork must of a process that may
/// have other threads.
pub fn kill_when_cut(pipe: &OwnedFd, other_end: OwnedFd, tasks: &[OwnedFd], deeds: &LastDeeds) -> ! {
    let pidfds = tasks.iter().map(OwnedFd::as_raw_fd);
    let kept: Vec<RawFd> = pidfds.chain(deeds.agents.iter().copied()).collect();
    let cut = is_cut(pipe, other_end);
    for (socket, bytes) in deeds.locks.iter().filter(|_| cut) {
        // SAFETY: the kernel reads the bytes.
        unsafe { libc::write(*socket, bytes.as_ptr().cast(), bytes.len()) };
    }
    for socket in deeds.silenced.iter().filter(|_| cut) {
        set_number(*socket, libc::IPPROTO_TCP, TCP_REPAIR, 1);
    }
    if cut {
        // A fork has all that its parent had open: sockets of the tasks among it, which are to be gone when the tasks are.
        close_all_but(&kept);
    }
    for task in tasks.iter().filter(|_| cut) {
        let null = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: takes numbers and no siginfo; one that is gone already is an error that means nothing.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, task.as_raw_fd(), libc::SIGKILL, null, 0) };
    }
    // SAFETY: does not return, and runs no handlers.
    unsafe { libc::_exit(0) }
}

/// Closes all descriptors but the standard ones and these: in a process that uses no others any more.
pub fn close_all_but(kept: &[RawFd]) {
    let mut from = 3;
    loop {
        let next = kept.iter().copied().filter(|fd| *fd >= from).min();
        let last = next.map_or(u32::MAX, |fd| fd as u32 - 1);
        if from as u32 <= last {
            // SAFETY: nobody of this process uses one of them any more.
            unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) };
        }
        match next {
            Some(fd) => from = fd + 1,
            None => return,
        }
    }
}

/// What another forked guardian does: when the end of the pipe comes, it takes these TCP sockets out of repair mode, and puts
/// back their `SO_REUSEADDR`, which the mode overwrites.
pub fn end_repair_when_cut(pipe: &OwnedFd, other_end: OwnedFd, sockets: &[(i32, i32)]) -> ! {
    let cut = is_cut(pipe, other_end);
    for (socket, reuse) in sockets.iter().filter(|_| cut) {
        // Off, without the probe that plain 0 sends; a socket that is not in the mode stays as it is.
        set_number(*socket, libc::IPPROTO_TCP, TCP_REPAIR, -1);
        set_number(*socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, *reuse);
    }
    // SAFETY: does not return, and runs no handlers.
    unsafe { libc::_exit(0) }
}

/// Waits, in a session of our own, for a byte or the end of a pipe; whether it was the end.
fn is_cut(pipe: &OwnedFd, other_end: OwnedFd) -> bool {
    drop(other_end);
    // SAFETY: begins a session of our own, which no kill of the parent's process group reaches.
    unsafe { libc::setsid() };
    let mut byte = 0_u8;
    loop {
        // SAFETY: writes at most one byte to a live variable.
        let read = unsafe { libc::read(pipe.as_raw_fd(), (&raw mut byte).cast(), 1) };
        if read >= 0 || Errno::last() != Errno::EINTR {
            return read != 1;
        }
    }
}

/// Sets an option, as far as that can be done.
fn set_number(socket: i32, level: i32, name: i32, value: i32) {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads a number; a descriptor that is no such socket is an error that means nothing.
    unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), len) };
}

/// What `wait(2)` says of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It stopped; the status has the signal and event.
    Stopped(i32),
    /// It ended, and is reaped as far as it is ours.
    Ended(i32),
    /// Nothing new.
    Nothing,
}

/// Asks whether a traced thread or a child changed state; does not wait.
pub fn wait_nohang(tid: i32) -> Result<Waited, SysError> {
    wait_with(tid, libc::WNOHANG)
}

/// Waits until a traced thread or a child changes state.
pub fn wait(tid: i32) -> Result<Waited, SysError> {
    wait_with(tid, 0)
}

fn wait_with(tid: i32, flags: i32) -> Result<Waited, SysError> {
    let mut status = 0;
    // SAFETY: the kernel writes to a live variable.
    match unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | flags) } {
        0 => Ok(Waited::Nothing),
        1.. if libc::WIFSTOPPED(status) => Ok(Waited::Stopped(status)),
        1.. => Ok(Waited::Ended(status)),
        _ => Err(SysError::last("waitpid")),
    }
}

/// Lets `SIGCHLD` wait for [`wait_for_child_signal`] in this thread: blocked, and not ignored, whatever our parent left us.
pub fn hold_child_signal() -> Result<(), SysError> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: installs no handler.
    unsafe { sigaction(Signal::SIGCHLD, &default) }.map_err(SysError::of("sigaction"))?;
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block().map_err(SysError::of("sigprocmask"))
}

/// Waits until `SIGCHLD`, which must be blocked, is sent to us, or the time is over (`EAGAIN`).
pub fn wait_for_child_signal(limit: std::time::Duration) -> Result<(), SysError> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: initializes the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set is initialized.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD) };
    let timeout = libc::timespec {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(limit.subsec_nanos()),
    };
    // SAFETY: reads the set and the time.
    let signal = unsafe { libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const timeout) };
    if signal < 0 { Err(SysError::last("sigtimedwait")) } else { Ok(()) }
}

/// Sets the user and group that count for access to files, and own what we make (setfsuid(2)); what they were.
pub fn set_file_ids(uid: u32, gid: u32) -> (u32, u32) {
    // SAFETY: takes a number only.
    let group = unsafe { libc::setfsgid(gid) };
    // SAFETY: takes a number only.
    let user = unsafe { libc::setfsuid(uid) };
    (user as u32, group as u32)
}

/// Keeps capabilities as they are when ids change (`SECBIT_NO_SETUID_FIXUP`, capabilities(7)).
pub fn keep_capabilities() -> Result<(), SysError> {
    /// From `include/uapi/linux/securebits.h`.
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: takes no arguments.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    let bits = Errno::result(bits).map_err(SysError::of("prctl(PR_GET_SECUREBITS)"))? as libc::c_ulong;
    // SAFETY: takes a number only.
    let set = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) };
    Errno::result(set).map(drop).map_err(SysError::of("prctl(PR_SET_SECUREBITS)"))
}
