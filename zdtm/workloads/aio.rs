//! Contexts of asynchronous I/O (`io_setup`) work on, and hold what was complete and not collected. The argument says
//! how many requests are made before, and how many of them are collected.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

/// `struct iocb` of `include/uapi/linux/aio_abi.h`.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event_fd: u32,
}

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const LENGTH: usize = 512;

/// `struct io_event`.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug, PartialEq)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

fn setup(events: u32) -> Result<u64, Failure> {
    let mut context = 0_u64;
    // SAFETY: the kernel writes one word to a live variable.
    Errno::result(unsafe { libc::syscall(libc::SYS_io_setup, events, &raw mut context) })?;
    Ok(context)
}

fn submit(context: u64, file: &File, opcode: u16, bytes: &mut [u8], data: u64) -> Verdict {
    let mut request = Request {
        data,
        opcode,
        fd: file.as_raw_fd() as u32,
        buffer: bytes.as_mut_ptr().expose_provenance() as u64,
        length: bytes.len() as u64,
        offset: (data * LENGTH as u64) as i64,
        ..Request::default()
    };
    let mut list = [&raw mut request];
    // SAFETY: without O_DIRECT the transfer is complete before the call returns; all it needs lives until then.
    let submitted = unsafe { libc::syscall(libc::SYS_io_submit, context, 1, list.as_mut_ptr()) };
    ensure_eq!(Errno::result(submitted)?, 1, "requests that were taken");
    Ok(())
}

/// Collects what is complete, up to `most`.
fn collect(context: u64, most: usize) -> Result<Vec<(u64, i64)>, Failure> {
    let mut events = vec![Event::default(); most];
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let place = events.as_mut_ptr();
    // SAFETY: the kernel writes `most` events at most, for which there is room.
    let got = unsafe { libc::syscall(libc::SYS_io_getevents, context, 0, most, place, &raw const none) };
    events.truncate(Errno::result(got)? as usize);
    Ok(events.iter().map(|event| (event.data, event.result)).collect())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut numbers = cx.args().iter().filter_map(|word| word.parse::<u64>().ok());
    let (made, collected) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(cx.path("file"))?;
    // The kernel gives the lowest free number to a context: one in between is gone when the others are dumped.
    let (first, gone, second) = (setup(1)?, setup(5)?, setup(700)?);
    // SAFETY: nothing is in flight, and nobody uses it.
    Errno::result(unsafe { libc::syscall(libc::SYS_io_destroy, gone) })?;
    let mut left = collected;
    for number in 0..made {
        submit(second, &file, PWRITE, &mut pattern(number, LENGTH), number)?;
        if left > 0 {
            ensure_eq!(collect(second, 1)?, [(number, LENGTH as i64)], "an event before");
            left -= 1;
        }
    }
    cx.barrier()?;
    let waiting = collect(second, 2000)?;
    let expected: Vec<(u64, i64)> = (collected..made).map(|number| (number, LENGTH as i64)).collect();
    ensure_eq!(waiting, expected, "events that were not collected");
    ensure_eq!(collect(first, 10)?, [], "events of an idle context");
    for (context, rounds) in [(first, 300), (second, 3000)] {
        for number in 0..rounds {
            let mut bytes = pattern(number, LENGTH);
            submit(context, &file, PWRITE, &mut bytes, number)?;
            bytes.fill(0);
            submit(context, &file, PREAD, &mut bytes, number)?;
            check_pattern(&bytes, number, "what was read")?;
            ensure_eq!(collect(context, 9)?, [(number, LENGTH as i64); 2], "an event");
        }
    }
    let all = |context: u64| -> Result<usize, Failure> {
        let mut taken = 0;
        while submit(context, &file, PREAD, &mut [0; LENGTH], 0).is_ok() {
            taken += 1;
        }
        ensure_eq!(collect(context, 5000)?.len(), taken, "events of a full ring");
        Ok(taken)
    };
    ensure!(all(first)? < all(second)?, "the larger ring takes no more requests");
    Ok(())
}
