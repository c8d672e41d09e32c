//! Seizing, comparing and creating processes.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::error::SysError;
use crate::procfs::{auxv, stat};
use crate::sys::ptrace::{Queue, SIGINFO_SIZE, peek_siginfo};
use crate::sys::{self, pidfd, probe, process};

use super::Answer;

/// A child that we hold stopped, and that is gone when this is dropped.
#[derive(Debug)]
struct Tracee(Pid);

impl Tracee {
    fn new(first: fn() -> Result<(), Errno>) -> Result<Self, SysError> {
        let tracee = Self(Pid::from_raw(probe::idle_child(first)?));
        ptrace::seize(tracee.0, ptrace::Options::empty()).map_err(SysError::of("ptrace(PTRACE_SEIZE)"))?;
        ptrace::interrupt(tracee.0).map_err(SysError::of("ptrace(PTRACE_INTERRUPT)"))?;
        waitpid(tracee.0, None).map_err(SysError::of("waitpid"))?;
        Ok(tracee)
    }

    fn ask<T>(question: impl FnOnce(i32) -> Result<T, SysError>) -> Result<T, SysError> {
        let tracee = Self::new(|| Ok(()))?;
        question(tracee.0.as_raw())
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _already_gone = nix::sys::signal::kill(self.0, Signal::SIGKILL);
        let _reaped = waitpid(self.0, None);
    }
}

/// A descriptor of this process, as calls name it that take any process's.
fn own_fd(fd: i32) -> (i32, i32) {
    (std::process::id().cast_signed(), fd)
}

pub(super) fn seize() -> Answer {
    Tracee::new(|| Ok(())).map(drop).into()
}

pub(super) fn rseq_configuration() -> Answer {
    Tracee::ask(sys::ptrace::rseq_configuration).map(drop).into()
}

pub(super) fn pending_signals() -> Answer {
    let peek = |tid| peek_siginfo(tid, Queue::Thread, 0, &mut [[0; SIGINFO_SIZE]]);
    Tracee::ask(peek).map(drop).into()
}

pub(super) fn robust_list() -> Answer {
    Tracee::ask(process::robust_list).map(drop).into()
}

/// The tracee needs a filter: without one, kernels that can show filters say the same as those that cannot.
pub(super) fn seccomp_filters() -> Answer {
    let tracee = Tracee::new(probe::install_empty_filter);
    tracee.and_then(|tracee| probe::seccomp_get_filter(tracee.0.as_raw())).map(drop).into()
}

pub(super) fn suspend_seccomp() -> Answer {
    Tracee::ask(probe::suspend_seccomp).into()
}

pub(super) fn breakpoints() -> Answer {
    // The address is never executed; 1 in register 7 switches the first breakpoint on.
    let set = |tid| {
        probe::poke_debug_register(tid, 0, 0x1000)?;
        probe::poke_debug_register(tid, 7, 1)
    };
    Tracee::ask(set).into()
}

pub(super) fn kcmp() -> Answer {
    process::kcmp_file(own_fd(0), own_fd(0)).map(drop).into()
}

pub(super) fn kcmp_epoll() -> Answer {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let asked = || {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(SysError::of("epoll_create1"))?;
        let event = nix::sys::eventfd::EventFd::new().map_err(SysError::of("eventfd2"))?;
        epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(SysError::of("epoll_ctl"))?;
        let watched = event.as_fd().as_raw_fd();
        process::kcmp_watched(own_fd(watched), own_fd(epoll.0.as_raw_fd()), (watched, 0))
    };
    asked().map(drop).into()
}

pub(super) fn clone3_set_tid() -> Answer {
    // A pid that was free a moment ago may be taken now, so a few are tried.
    const TRIES: usize = 5;
    let mut last = Answer::No("no free pid found".to_owned());
    for _ in 0..TRIES {
        let free = probe::idle_child(|| Ok(())).inspect(|pid| drop(Tracee(Pid::from_raw(*pid))));
        match free.and_then(probe::clone3_set_tid) {
            Err(e) if e.errno == Errno::EEXIST => last = Answer::No(e.to_string()),
            answer => return answer.into(),
        }
    }
    last
}

pub(super) fn set_mm_map() -> Answer {
    let read = |path| std::fs::read(path).map_err(|e| e.to_string());
    let layout = read("/proc/self/stat").and_then(|text| stat::parse(&text).map_err(|e| e.to_string()));
    let auxv = read("/proc/self/auxv").and_then(|bytes| auxv::parse(&bytes).map_err(|e| e.to_string()));
    let stat = match (layout, auxv) {
        (Ok(stat), Ok(_)) => stat,
        (Err(reason), _) | (_, Err(reason)) => return Answer::No(reason),
    };
    let map = probe::MmMap {
        start_code: stat.start_code,
        end_code: stat.end_code,
        start_data: stat.start_data,
        end_data: stat.end_data,
        start_brk: stat.start_brk,
        brk: probe::current_brk(),
        start_stack: stat.start_stack,
        arg_start: stat.arg_start,
        arg_end: stat.arg_end,
        env_start: stat.env_start,
        env_end: stat.env_end,
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::MAX,
    };
    probe::set_mm_map(&map).into()
}

pub(super) fn tid_address() -> Answer {
    probe::tid_address().map(drop).into()
}

pub(super) fn timer_restore_ids() -> Answer {
    probe::timer_restore_ids().into()
}

pub(super) fn membarrier_registrations() -> Answer {
    probe::membarrier_registrations().map(drop).into()
}

pub(super) fn map_vdso() -> Answer {
    vdso(0x2003)
}

pub(super) fn compat() -> Answer {
    vdso(0x2002)
}

/// Our process has a vdso, so a kernel that could map one says `EEXIST`.
fn vdso(operation: i32) -> Answer {
    match probe::map_vdso(operation) {
        Ok(()) | Err(SysError { errno: Errno::EEXIST, .. }) => Answer::Yes,
        Err(e) => Answer::No(e.to_string()),
    }
}

pub(super) fn pidfd() -> Answer {
    pidfd::open(own_fd(0).0).and_then(|own| pidfd::getfd(own, 0)).map(drop).into()
}
