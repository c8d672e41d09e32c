//! Calls with a timeout that the dump interrupts go on for what was left of it, and none of them fails.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Thread, Verdict};

const SLEEP: Duration = Duration::from_secs(2);
/// How long they have slept when they are dumped; a sleep that begins anew is late by that.
const BEFORE: Duration = Duration::from_millis(700);
const LATE: Duration = Duration::from_millis(400);

/// Microseconds that the process has lived, without the time from its dump to its restore.
static LIVED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicBool = AtomicBool::new(false);
static WORD: AtomicU32 = AtomicU32::new(0);

type Call = fn(&libc::timespec) -> Result<i64, Errno>;

/// Sleeps that end when their time is over, each with its result.
const CALLS: &[(&str, Call, Result<i64, Errno>)] = &[
    ("nanosleep", |time| call(libc::SYS_nanosleep, [address(time), 0, 0, 0, 0, 0]), Ok(0)),
    ("nanosleep with the rest", sleep_with_rest, Ok(0)),
    (
        "clock_nanosleep",
        |time| call(libc::SYS_clock_nanosleep, [libc::CLOCK_BOOTTIME.into(), 0, address(time), 0, 0, 0]),
        Ok(0),
    ),
    ("poll", |time| call(libc::SYS_poll, [0, 0, time.tv_sec * 1000, 0, 0, 0]), Ok(0)),
    ("ppoll", |time| changed(*time, |copy| call(libc::SYS_ppoll, [0, 0, copy, 0, 0, 0])), Ok(0)),
    ("pselect", |time| changed(*time, |copy| call(libc::SYS_pselect6, [0, 0, 0, 0, copy, 0])), Ok(0)),
    ("futex", wait_for_word, Err(Errno::ETIMEDOUT)),
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let clock = cx.thread(|_| {
        tick();
        Ok(())
    });
    let sleepers: Vec<Thread> = CALLS.iter().map(|case| cx.thread(move |_| check(case))).collect();
    let event = EventFd::new()?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
    let endless = cx.thread(move |_| {
        let mut event = [0_u64; 2];
        let args = [epoll.0.as_raw_fd().into(), address(&raw mut event), 1, -1, 0, 0];
        ensure_result("epoll_wait", call(libc::SYS_epoll_wait, args), Ok(1))
    });
    let limited = cx.thread(|_| {
        let set = 1_u64 << (libc::SIGUSR2 - 1);
        let time = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        let args = [address(&raw const set), 0, address(&raw const time), 8, 0, 0];
        ensure_result("sigtimedwait", call(libc::SYS_rt_sigtimedwait, args), Err(Errno::EAGAIN))
    });
    let (socket, _other_end) = std::os::unix::net::UnixStream::pair()?;
    socket.set_read_timeout(Some(SLEEP / 2))?;
    let reader = cx.thread(move |_| {
        let mut byte = 0_u8;
        let args = [socket.as_raw_fd().into(), address(&raw mut byte), 1, 0, 0, 0];
        ensure_result("read of a socket", call(libc::SYS_read, args), Err(Errno::EAGAIN))
    });
    std::thread::sleep(BEFORE);
    cx.barrier()?;
    sleepers.into_iter().try_for_each(Thread::join)?;
    limited.join()?;
    reader.join()?;
    event.write(1)?;
    endless.join()?;
    DONE.store(true, Ordering::Release);
    clock.join()
}

/// Counts the time that passes, in steps which none from dump to restore is one of.
fn tick() {
    const LONGEST: Duration = Duration::from_millis(15);
    let mut last = Instant::now();
    while !DONE.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
        let now = Instant::now();
        LIVED.fetch_add((now - last).min(LONGEST).as_micros() as u64, Ordering::Relaxed);
        last = now;
    }
}

fn check((name, sleep, expected): &(&'static str, Call, Result<i64, Errno>)) -> Verdict {
    let time = libc::timespec { tv_sec: SLEEP.as_secs() as i64, tv_nsec: 0 };
    let lived = LIVED.load(Ordering::Relaxed);
    let begun = Instant::now();
    let result = sleep(&time);
    let slept = begun.elapsed();
    let lived = Duration::from_micros(LIVED.load(Ordering::Relaxed) - lived);
    ensure_result(name, result, *expected)?;
    ensure!(slept >= SLEEP, "{name} slept only {slept:?}");
    ensure!(lived < SLEEP + LATE, "{name} slept {lived:?}, not counting the time from dump to restore");
    ensure!(time.tv_sec == SLEEP.as_secs() as i64 && time.tv_nsec == 0, "{name}: its time was changed");
    Ok(())
}

fn ensure_result(name: &str, result: Result<i64, Errno>, expected: Result<i64, Errno>) -> Verdict {
    if result == expected { Ok(()) } else { Err(Failure::new(format!("{name}: {result:?}"))) }
}

/// Makes a call that writes into its time what is left of it.
fn changed(mut time: libc::timespec, call: impl Fn(i64) -> Result<i64, Errno>) -> Result<i64, Errno> {
    call(address(&raw mut time))
}

fn sleep_with_rest(time: &libc::timespec) -> Result<i64, Errno> {
    let mut rest = [0_i64; 2];
    call(libc::SYS_nanosleep, [address(time), address(&raw mut rest), 0, 0, 0, 0])
}

fn wait_for_word(time: &libc::timespec) -> Result<i64, Errno> {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    call(libc::SYS_futex, [address(&raw const WORD), operation.into(), 0, address(time), 0, 0])
}

fn address<T>(of: *const T) -> i64 {
    of.expose_provenance() as i64
}

/// A raw call, which shows an interruption that the library would hide.
fn call(number: i64, [a, b, c, d, e, f]: [i64; 6]) -> Result<i64, Errno> {
    // SAFETY: whatever is given by its address lives during the call, and is as large as the call reads or writes.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}
