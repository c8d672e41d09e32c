//! Descriptors above a limit that was lowered later stay, and so does the limit.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

const HIGH: [i32; 3] = [500, 700, 1000];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    std::fs::write(cx.path("file"), "0123456789")?;
    let mut file = File::open(cx.path("file"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    for number in HIGH {
        // SAFETY: takes numbers only; nobody has the number.
        Errno::result(unsafe { libc::dup2(file.as_raw_fd(), number) })?;
    }
    let lowest = File::open("/dev/null")?.as_raw_fd() as u64;
    // One more can be opened, no two.
    setrlimit(Resource::RLIMIT_NOFILE, lowest + 1, hard)?;
    cx.barrier()?;
    ensure_eq!(getrlimit(Resource::RLIMIT_NOFILE)?, (lowest + 1, hard), "the limit");
    let more = File::open("/dev/null")?;
    ensure_eq!(more.as_raw_fd() as u64, lowest, "the lowest number");
    ensure!(File::open("/dev/null").is_err(), "more descriptors than the limit allows");
    file.seek(std::io::SeekFrom::Start(0))?;
    for (place, number) in HIGH.into_iter().enumerate() {
        let mut byte = [0];
        // SAFETY: the kernel writes one byte to a live variable.
        let read = Errno::result(unsafe { libc::read(number, byte.as_mut_ptr().cast(), 1) });
        ensure_eq!((read, byte[0]), (Ok(1), b'0' + place as u8), format!("what fd {number} reads"));
    }
    let mut rest = String::new();
    file.read_to_string(&mut rest)?;
    ensure_eq!(rest, "3456789", "what is left");
    Ok(())
}
