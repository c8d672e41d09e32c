//! A fifo that is open in one direction only stays so, and the other end can still be opened.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o600))?;
    // A reader may come first if it does not block; a writer needs a reader, which then goes.
    let reader = open(&path, libc::O_RDONLY)?;
    if cx.args().first().is_some_and(|word| word == "write-only") {
        let mut writer = open(&path, libc::O_WRONLY)?;
        drop(reader);
        cx.barrier()?;
        let error = writer.write(b"x").err().and_then(|error| error.raw_os_error());
        ensure_eq!(error, Some(Errno::EPIPE as i32), "writing without a reader");
        exchange(&mut writer, &mut open(&path, libc::O_RDONLY)?)
    } else {
        let mut reader = reader;
        cx.barrier()?;
        ensure_eq!(reader.read(&mut [0; 1])?, 0, "bytes without a writer");
        exchange(&mut open(&path, libc::O_WRONLY)?, &mut reader)
    }
}

fn open(path: &Path, mode: i32) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.read(mode == libc::O_RDONLY).write(mode == libc::O_WRONLY);
    Ok(options.custom_flags(libc::O_NONBLOCK).open(path)?)
}

fn exchange(writer: &mut File, reader: &mut File) -> Verdict {
    writer.write_all(b"hello")?;
    let mut bytes = [0; 5];
    reader.read_exact(&mut bytes)?;
    ensure_eq!(bytes, *b"hello", "data");
    Ok(())
}
