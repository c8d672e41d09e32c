//! A master in packet mode and a slave in exclusive mode stay so.

use nix::sys::termios::{FlushArg, tcflush};
use nix::unistd::write;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::terminal::{
    TIOCGEXCL, TIOCGPKT, TIOCPKT, get_number, open_pair, read_exactly, request, set_number, wait_readable,
};

/// The byte before data, and the bit that says that the slave's input was thrown away (`asm-generic/ioctls.h`).
const TIOCPKT_DATA: u8 = 0;
const TIOCPKT_FLUSHREAD: u8 = 1;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (master, slave) = open_pair()?;
    set_number(&master, TIOCPKT, 1)?;
    request(&slave, libc::TIOCEXCL)?;
    write(&slave, b"some output")?;
    wait_readable(&master)?;
    cx.barrier()?;
    ensure_eq!(get_number(&master, TIOCGPKT)?, 1, "packet mode");
    ensure_eq!(get_number(&slave, TIOCGEXCL)?, 1, "exclusive mode of the slave");
    ensure_eq!(get_number(&master, TIOCGEXCL)?, 0, "exclusive mode of the master");
    let packet = read_exactly(&master, 12)?;
    ensure_eq!(packet.split_first(), Some((&TIOCPKT_DATA, &b"some output"[..])), "the packet");
    tcflush(&slave, FlushArg::TCIFLUSH)?;
    ensure_eq!(read_exactly(&master, 1)?, [TIOCPKT_FLUSHREAD], "the packet that tells of a flush");
    Ok(())
}
