//! Settings of a terminal are kept in full, and so is which of them cannot be changed.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{FlowArg, tcflow};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::terminal::open_pair;

/// `struct termios2` and `struct termios` (`include/uapi/asm-generic/termbits.h`), in words.
type Settings = [u32; 11];

/// From `include/uapi/asm-generic/ioctls.h`; `BOTHER` allows any speed.
const TCGETS2: u64 = 0x802c_542a;
const TCSETS2: u64 = 0x402c_542b;
const TIOCGLCKTRMIOS: u64 = 0x5456;
const TIOCSLCKTRMIOS: u64 = 0x5457;
const BOTHER: u32 = 0o10000;
const CBAUD: u32 = 0o10017;

fn ioctl(slave: &OwnedFd, request: u64, settings: &mut Settings) -> Verdict {
    // SAFETY: these requests read or write no more than a `struct termios2`, in a live variable.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), request, &raw mut *settings) })?;
    Ok(())
}

fn lock(slave: &OwnedFd, locked: &mut Settings) -> i32 {
    // SAFETY: the request reads no more than a `struct termios`, from a live variable.
    unsafe { libc::ioctl(slave.as_raw_fd(), TIOCSLCKTRMIOS, &raw mut *locked) }
}

fn get(slave: &OwnedFd, request: u64) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    ioctl(slave, request, &mut settings)?;
    Ok(settings)
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (_master, slave) = open_pair()?;
    let mut settings = get(&slave, TCGETS2)?;
    settings[0] ^= libc::IUTF8 | libc::IXANY;
    settings[1] ^= libc::ONLCR;
    settings[2] = settings[2] & !CBAUD | BOTHER;
    settings[3] ^= libc::ECHO | libc::TOSTOP;
    // VINTR, the first of the characters, which begin after a byte for the discipline; then both speeds.
    settings[4] = settings[4] & !0xff00 | 0x0700;
    settings[9..].copy_from_slice(&[12_345, 12_345]);
    ioctl(&slave, TCSETS2, &mut settings)?;
    let settings = get(&slave, TCGETS2)?;
    let mut locked = Settings::default();
    locked[3] = libc::ECHO;
    // Root of a user namespace may not lock settings: none are.
    if Errno::result(lock(&slave, &mut locked)) == Err(Errno::EPERM) {
        locked[3] = 0;
    }
    tcflow(&slave, FlowArg::TCOOFF)?;
    cx.barrier()?;
    ensure_eq!(get(&slave, TCGETS2)?, settings, "settings");
    ensure_eq!(get(&slave, TIOCGLCKTRMIOS)?, locked, "settings that are locked");
    let mut changed = settings;
    changed[3] ^= locked[3];
    ioctl(&slave, TCSETS2, &mut changed)?;
    ensure_eq!(get(&slave, TCGETS2)?, settings, "settings after a change that is locked");
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&slave, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    ensure_eq!(nix::unistd::write(&slave, b"x"), Err(Errno::EAGAIN), "a write to stopped output");
    Ok(())
}
