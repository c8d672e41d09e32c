//! Thousands of descriptors at numbers with gaps between them stay where they are.

use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::pipe2;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

/// Every descriptor's number is a multiple of this; on the way up, two in three are opened anew.
const STEP: u64 = 7;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let end = hard.min(20_000);
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK)?;
    let numbers: Vec<i32> = (14..end / STEP).map(|n| (n * STEP) as i32).collect();
    let place = |fd: i32, number: i32, flags: i32| -> Result<(), Failure> {
        // SAFETY: takes numbers only; nobody has the number.
        Errno::result(unsafe { libc::dup3(fd, number, flags) })?;
        Ok(())
    };
    for number in &numbers {
        match number % 3 {
            0 => place(writer.as_raw_fd(), *number, libc::O_CLOEXEC)?,
            1 => place(std::fs::File::open("/proc/self/comm")?.as_raw_fd(), *number, 0)?,
            _ => place(nix::sys::eventfd::EventFd::new()?.as_raw_fd(), *number, 0)?,
        }
    }
    let before = table()?;
    ensure!(before.len() > numbers.len(), "only {} descriptors", before.len());
    cx.barrier()?;
    ensure!(table()? == before, "another table of descriptors than before");
    for number in numbers.iter().filter(|number| **number % 3 == 0) {
        // SAFETY: the kernel reads four bytes of a live variable.
        let written = unsafe { libc::write(*number, (&raw const *number).cast(), 4) };
        ensure_eq!(Errno::result(written), Ok(4), format!("writing to fd {number}"));
        let mut bytes = [0; 8];
        ensure_eq!(nix::unistd::read(&reader, &mut bytes)?, 4, "bytes from the pipe");
        ensure_eq!(bytes[..4], number.to_ne_bytes(), "what came through the pipe");
    }
    Ok(())
}

/// Numbers of all descriptors, with their flags.
fn table() -> Result<Vec<(i32, i32)>, Failure> {
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // SAFETY: takes numbers only.
    let flags = |number: i32| unsafe { libc::fcntl(number, libc::F_GETFD) };
    Ok((0..limit as i32).map(|number| (number, flags(number))).filter(|(_, flags)| *flags >= 0).collect())
}
