//! Requests to terminals, by `ioctl(2)`.
//!
//! On the master of a pseudo-terminal, requests about the line discipline's settings act on the slave.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::SysError;

/// `struct termios2` (`include/uapi/asm-generic/termbits.h`); `struct termios` is all of it but the speeds.
#[repr(C)]
#[expect(clippy::struct_field_names, reason = "they are the kernel's")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Termios {
    pub c_iflag: u32,
    pub c_oflag: u32,
    pub c_cflag: u32,
    pub c_lflag: u32,
    pub c_line: u8,
    pub c_cc: [u8; 19],
    pub c_ispeed: u32,
    pub c_ospeed: u32,
}

/// `struct winsize`: rows, columns, and the size in pixels.
pub type Window = [u16; 4];

// From include/uapi/asm-generic/ioctls.h, where libc lacks them.
const TCGETS2: u64 = 0x802c_542a;
const TCSETS2: u64 = 0x402c_542b;
const TIOCPKT: u64 = 0x5420;
const TIOCGDEV: u64 = 0x8004_5432;
const TIOCGPKT: u64 = 0x8004_5438;
const TIOCGPTLCK: u64 = 0x8004_5439;
const TIOCGEXCL: u64 = 0x8004_5440;
const TIOCGPTPEER: u64 = 0x5441;
const TIOCGLCKTRMIOS: u64 = 0x5456;
const TIOCSLCKTRMIOS: u64 = 0x5457;

/// A number that a terminal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// Of a master: the number of the pseudo-terminal.
    Index,
    /// The device behind the descriptor, in the encoding of `dev_t` for user space.
    Device,
    /// The session whose controlling terminal it is; `ENOTTY` without one.
    Session,
    /// Of a master: whether it is in packet mode.
    PacketMode,
    /// Of a master: whether its slave cannot be opened yet.
    Locked,
    /// Whether it cannot be opened any more.
    Exclusive,
    /// Its line discipline.
    Discipline,
    /// How many bytes can be read.
    Readable,
}

impl Number {
    const fn request(self) -> (&'static str, u64) {
        match self {
            Self::Index => ("ioctl(TIOCGPTN)", libc::TIOCGPTN),
            Self::Device => ("ioctl(TIOCGDEV)", TIOCGDEV),
            Self::Session => ("ioctl(TIOCGSID)", libc::TIOCGSID),
            Self::PacketMode => ("ioctl(TIOCGPKT)", TIOCGPKT),
            Self::Locked => ("ioctl(TIOCGPTLCK)", TIOCGPTLCK),
            Self::Exclusive => ("ioctl(TIOCGEXCL)", TIOCGEXCL),
            Self::Discipline => ("ioctl(TIOCGETD)", 0x5424),
            Self::Readable => ("ioctl(FIONREAD)", libc::FIONREAD),
        }
    }
}

/// Asks for a number.
pub fn number(fd: BorrowedFd<'_>, what: Number) -> Result<i32, SysError> {
    let (call, request) = what.request();
    let mut value = 0_i32;
    // SAFETY: each of these requests writes one int, to a live variable.
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) };
    Errno::result(got).map(|_| value).map_err(SysError::of(call))
}

/// A switch of the master of a pseudo-terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Whether what is read begins with a byte that says what it is.
    PacketMode,
    /// Whether the slave cannot be opened.
    Locked,
}

/// Turns a switch.
pub fn turn(fd: BorrowedFd<'_>, switch: Switch, on: bool) -> Result<(), SysError> {
    let (call, request) = match switch {
        Switch::PacketMode => ("ioctl(TIOCPKT)", TIOCPKT),
        Switch::Locked => ("ioctl(TIOCSPTLCK)", libc::TIOCSPTLCK),
    };
    let value = i32::from(on);
    // SAFETY: both requests read one int, from a live variable.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) };
    Errno::result(set).map(|_| ()).map_err(SysError::of(call))
}

/// Lets nobody open the terminal any more, but those with `CAP_SYS_ADMIN`.
pub fn make_exclusive(fd: BorrowedFd<'_>) -> Result<(), SysError> {
    // SAFETY: takes no argument.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCEXCL) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("ioctl(TIOCEXCL)"))
}

/// Its settings.
pub fn termios(fd: BorrowedFd<'_>) -> Result<Termios, SysError> {
    let mut termios = Termios::default();
    // SAFETY: the kernel writes a `struct termios2` to a live variable of that layout.
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), TCGETS2, &raw mut termios) };
    Errno::result(got).map(|_| termios).map_err(SysError::of("ioctl(TCGETS2)"))
}

/// Sets its settings, at once.
pub fn set_termios(fd: BorrowedFd<'_>, termios: &Termios) -> Result<(), SysError> {
    // SAFETY: the kernel reads a `struct termios2` from a live variable of that layout.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), TCSETS2, &raw const *termios) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("ioctl(TCSETS2)"))
}

/// Which settings cannot be changed.
pub fn locked_termios(fd: BorrowedFd<'_>) -> Result<Termios, SysError> {
    let mut termios = Termios::default();
    // SAFETY: the kernel writes a `struct termios`, which our variable begins with.
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), TIOCGLCKTRMIOS, &raw mut termios) };
    Errno::result(got).map(|_| termios).map_err(SysError::of("ioctl(TIOCGLCKTRMIOS)"))
}

/// Sets which settings cannot be changed.
pub fn set_locked_termios(fd: BorrowedFd<'_>, termios: &Termios) -> Result<(), SysError> {
    // SAFETY: the kernel reads a `struct termios`, which our variable begins with.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), TIOCSLCKTRMIOS, &raw const *termios) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("ioctl(TIOCSLCKTRMIOS)"))
}

/// The size of its window.
pub fn window(fd: BorrowedFd<'_>) -> Result<Window, SysError> {
    let mut window = Window::default();
    // SAFETY: the kernel writes a `struct winsize`, which is four of these numbers.
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut window) };
    Errno::result(got).map(|_| window).map_err(SysError::of("ioctl(TIOCGWINSZ)"))
}

/// Sets the size of its window.
pub fn set_window(fd: BorrowedFd<'_>, window: Window) -> Result<(), SysError> {
    // SAFETY: the kernel reads a `struct winsize`, which is four of these numbers.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const window) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("ioctl(TIOCSWINSZ)"))
}

/// Lets the terminal receive a byte, as if it had been typed.
pub fn type_byte(fd: BorrowedFd<'_>, byte: u8) -> Result<(), SysError> {
    // SAFETY: the kernel reads one byte from a live variable.
    let typed = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSTI, &raw const byte) };
    Errno::result(typed).map(|_| ()).map_err(SysError::of("ioctl(TIOCSTI)"))
}

/// Opens the slave of a master.
pub fn open_slave(master: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes a number only.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags) };
    let fd = Errno::result(fd).map_err(SysError::of("ioctl(TIOCGPTPEER)"))?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
