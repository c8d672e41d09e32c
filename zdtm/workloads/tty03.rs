//! A slave whose master is gone stays hung up.

use nix::errno::Errno;
use nix::sys::termios::tcgetattr;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::terminal::open_pair;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (master, slave) = open_pair()?;
    let second = slave.try_clone()?;
    drop(master);
    cx.barrier()?;
    for slave in [slave, second] {
        ensure_eq!(nix::unistd::read(&slave, &mut [0; 8]), Ok(0), "a read");
        ensure_eq!(nix::unistd::write(&slave, b"x"), Err(Errno::EIO), "a write");
        ensure_eq!(tcgetattr(&slave).err(), Some(Errno::EIO), "a request");
    }
    Ok(())
}
