//! Lines, ends of file and the beginning of a line that were typed but not read are still there, and can still be erased.

use nix::unistd::write;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::terminal::{open_pair, read_exactly, wait_readable};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (master, slave) = open_pair()?;
    write(&master, b"one\ntwo\x04\x04thr")?;
    wait_readable(&slave)?;
    wait_readable(&master)?;
    let echo = b"one\r\ntwothr";
    ensure_eq!(read_exactly(&master, echo.len())?, echo, "echo");
    cx.barrier()?;
    let line = || -> Result<Vec<u8>, Failure> {
        let mut line = [0; 64];
        let len = nix::unistd::read(&slave, &mut line)?;
        Ok(line.iter().copied().take(len).collect())
    };
    ensure_eq!(line()?, b"one\n", "a line");
    ensure_eq!(line()?, b"two", "a line that ended by an end of file");
    ensure_eq!(line()?, b"", "an end of file");
    write(&master, b"\x7foat\n")?;
    ensure_eq!(line()?, b"thoat\n", "a line, half of it typed before the dump");
    let echo = b"\x08 \x08oat\r\n";
    ensure_eq!(read_exactly(&master, echo.len())?, echo, "echo of the second half alone");
    Ok(())
}
