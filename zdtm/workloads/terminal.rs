//! Pseudo-terminals for the workloads that need one.

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::termios::{self, SetArg};
use zdtm::workload::Failure;

/// From `include/uapi/asm-generic/ioctls.h`.
pub(crate) const TIOCPKT: u64 = 0x5420;
pub(crate) const TIOCGPKT: u64 = 0x8004_5438;
pub(crate) const TIOCGEXCL: u64 = 0x8004_5440;

/// A new pseudo-terminal: master and slave. Neither becomes a controlling terminal.
pub(crate) fn open_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = nix::fcntl::open("/dev/ptmx", flags, Mode::empty())?;
    set_number(&master, libc::TIOCSPTLCK, 0)?;
    let slave = nix::fcntl::open(slave_name(&master)?.as_str(), flags, Mode::empty())?;
    Ok((master, slave))
}

/// The path of a master's slave.
pub(crate) fn slave_name(master: impl AsFd) -> Result<String, Failure> {
    Ok(format!("/dev/pts/{}", get_number(master, libc::TIOCGPTN)?))
}

/// Asks a terminal for a number.
pub(crate) fn get_number(fd: impl AsFd, request: u64) -> Result<i32, Failure> {
    let mut value = 0;
    // SAFETY: the requests above write one int, to a live variable.
    let got = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut value) };
    Errno::result(got)?;
    Ok(value)
}

/// Sets a number.
pub(crate) fn set_number(fd: impl AsFd, request: u64, value: i32) -> Result<(), Failure> {
    // SAFETY: the requests above read one int, from a live variable.
    let set = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw const value) };
    Errno::result(set)?;
    Ok(())
}

/// Makes a request that takes no argument but 0.
pub(crate) fn request(fd: impl AsFd, request: u64) -> Result<(), Failure> {
    // SAFETY: takes numbers only.
    let made = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, 0) };
    Errno::result(made)?;
    Ok(())
}

/// The size of a window.
pub(crate) fn window(fd: impl AsFd) -> Result<[u16; 4], Failure> {
    let mut window = [0_u16; 4];
    // SAFETY: the kernel writes a `struct winsize`, which is four of these numbers.
    let got = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut window) };
    Errno::result(got)?;
    Ok(window)
}

/// Sets the size of a window.
pub(crate) fn set_window(fd: impl AsFd, window: [u16; 4]) -> Result<(), Failure> {
    // SAFETY: the kernel reads a `struct winsize`, which is four of these numbers.
    let set = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const window) };
    Errno::result(set)?;
    Ok(())
}

/// Turns all processing off.
pub(crate) fn make_raw(slave: impl AsFd) -> Result<(), Failure> {
    let mut settings = termios::tcgetattr(slave.as_fd())?;
    termios::cfmakeraw(&mut settings);
    termios::tcsetattr(slave.as_fd(), SetArg::TCSANOW, &settings)?;
    Ok(())
}

/// Reads exactly as much as there should be.
pub(crate) fn read_exactly(fd: impl AsFd, len: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match nix::unistd::read(fd.as_fd(), bytes.get_mut(filled..).unwrap_or_default())? {
            0 => return Err(Failure::new(format!("{filled} bytes instead of {len}"))),
            more => filled += more,
        }
    }
    Ok(bytes)
}

/// Whether there is something to read.
pub(crate) fn is_readable(fd: impl AsFd) -> Result<bool, Failure> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut polled, PollTimeout::ZERO)? != 0)
}

/// Waits until something can be read: what is written to one side arrives at the other a little later.
pub(crate) fn wait_readable(fd: impl AsFd) -> Result<(), Failure> {
    while !is_readable(fd.as_fd())? {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

/// Takes the calling session leader's controlling terminal.
pub(crate) fn control(slave: &OwnedFd) -> Result<(), Failure> {
    request(slave, libc::TIOCSCTTY)
}

/// Opens the controlling terminal by its general name.
pub(crate) fn open_own() -> Result<OwnedFd, Failure> {
    // SAFETY: takes a string that ends in a zero byte.
    let fd = unsafe { libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR) };
    Errno::result(fd)?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
