//! Terminals: both sides of pseudo-terminals, `/dev/tty`, consoles and serial lines.
//!
//! A descriptor refers to one side of a terminal; settings, size, session, foreground group and queued data belong to the
//! terminal, which is described once (`tty-info.img`). A master tells its number in `TIOCGPTN`; a slave is the device
//! `136:N`; `/dev/tty` is whatever controlled the session of its opener, which `TIOCGDEV` tells. Which session a terminal
//! controls, tasks tell (`tty_nr` and `tpgid` of `/proc/PID/stat`).
//!
//! A pseudo-terminal whose master is in the tree is made again under its number. Its session's leader must take it before it
//! has children, who inherit it. One whose master is outside belongs to somebody else, such as the emulator that shows the
//! caller's shell; with `--shell-job`, the terminal of whoever restores takes its place.

mod dump;
mod pair;
mod queue;
mod restore;

use std::os::fd::OwnedFd;

use proto::messages::{FdTypes, FileEntry, TtyFileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, InTask, RunBatch};
use crate::error::{Class, Context as _, Explain, Problem};
use crate::image::NewImages;

/// Terminals.
#[derive(Debug)]
pub struct Tty;

/// Why a terminal cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum TtyRefusal {
    /// The other side is held outside of the tree.
    #[error("the master of this terminal is held by a process outside of the tree")]
    NoMaster,
    /// It controls a session that is not dumped.
    #[error("it is the controlling terminal of session {0}, which is outside of the tree")]
    SessionOutside(i32),
    /// A task has a terminal that nobody in the tree has open.
    #[error("its controlling terminal, device {major}:{minor}, is not open in the tree")]
    NotOpen {
        /// Of the device.
        major: u32,
        /// Of the device.
        minor: u32,
    },
    /// A line discipline other than that of terminals.
    #[error("line discipline {0} is not supported; only that of terminals is, number 0")]
    Discipline(i32),
    /// In packet mode, the master has not read what happened to the slave.
    #[error("in packet mode, a change of the slave's state waits to be read; it cannot be read and put back")]
    StatusPending,
    /// Another pseudo-terminal has the number.
    #[error("/dev/pts/{index} exists already: {by} holds it")]
    IndexTaken {
        /// The number.
        index: u32,
        /// Who has it.
        by: String,
    },
    /// Nothing to take its place.
    #[error("it was the caller's own terminal, whose place no terminal takes now")]
    NoReplacement,
    /// A session needs it, and another has it.
    #[error("its session {0} begins in the tree, and the terminal comes from outside")]
    NeedsOwn(u32),
    /// Opened by whom?
    #[error("it was opened as /dev/tty, by a session that has given the terminal up since")]
    GivenUp,
}

impl Explain for TtyRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            Self::NoMaster => {
                "pass --shell-job if it is your own terminal, or dump the terminal's owner too, or pass --external \
                 tty[RDEV:DEV] (hexadecimal, of stat(2)) and hand another in with --inherit-fd"
            }
            Self::SessionOutside(_) => "dump that session too, or end it first",
            Self::NotOpen { .. } => "dump the owner of the terminal too, or start the program with setsid",
            Self::StatusPending => "let the holder of the master read it, and dump again",
            Self::IndexTaken { .. } => {
                "end that process, or restore in a mount namespace with a devpts of its own"
            }
            Self::NoReplacement => "restore with --shell-job, from a terminal",
            Self::NeedsOwn(_) => "dump the owner of the terminal too",
            Self::Discipline(_) | Self::GivenUp => return None,
        };
        Some(text.into())
    }
}

/// Major numbers, from `Documentation/admin-guide/devices.txt`.
mod major {
    /// Virtual terminals, then serial lines.
    pub(super) const TTY: u32 = 4;
    /// `/dev/tty`, `/dev/console`, `/dev/ptmx`.
    pub(super) const ALTERNATE: u32 = 5;
    /// Slaves of pseudo-terminals.
    pub(super) const SLAVE: u32 = 136;
    /// ACM and USB serial lines, low-density serial lines, hypervisor consoles.
    pub(super) const OTHERS: [u32; 4] = [166, 188, 204, 229];
}

/// What a device number is among terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    /// `/dev/ptmx`.
    Master,
    /// `/dev/pts/N`.
    Slave(u32),
    /// `/dev/tty`.
    Own,
    /// `/dev/console`.
    Console,
    /// `/dev/ttyN`.
    Virtual,
    /// `/dev/ttySN` and its like.
    Serial,
}

impl Device {
    fn of(rdev: u64) -> Option<Self> {
        Some(match (libc::major(rdev), libc::minor(rdev)) {
            (major::ALTERNATE, 2) => Self::Master,
            (major::SLAVE, index) => Self::Slave(index),
            (major::ALTERNATE, 0) => Self::Own,
            (major::ALTERNATE, 1) => Self::Console,
            (major::TTY, 0..64) => Self::Virtual,
            (major::TTY, _) => Self::Serial,
            (other, _) if major::OTHERS.contains(&other) => Self::Serial,
            _ => return None,
        })
    }
}

/// Which terminal an id of `tty-info.img` names: ours are made so that both programs number pseudo-terminals alike.
mod info_id {
    /// The slave of pseudo-terminal `index`.
    pub(super) const fn slave(index: u32) -> u32 {
        index.wrapping_mul(2)
    }

    /// The master of pseudo-terminal `index`.
    pub(super) const fn master(index: u32) -> u32 {
        slave(index) | 1
    }

    /// Pseudo-terminal `index`, opened as `/dev/tty`.
    pub(super) const fn own(index: u32) -> u32 {
        1 << 30 | index
    }

    /// A device.
    pub(super) const fn device(rdev: u32) -> u32 {
        1 << 31 | rdev
    }
}

impl FileKind for Tty {
    const NAME: &'static str = "tty";
    const NOT_SAVED: &'static [&'static str] = &[
        "settings of consoles, virtual terminals and serial lines, which stay as they are",
        "queued data of a terminal whose master is outside of the tree, or whose slave was never opened",
        "a foreground process group that has ended",
        "where on its line the cursor stands, for tabs and erasing",
    ];
    const TYPE: FdTypes = FdTypes::Tty;
    type Image = TtyFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.file_type() == libc::S_IFCHR && !fd.is_path_only() && Device::of(fd.stat.st_rdev).is_some()
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<TtyFileEntry>> {
        &mut entry.tty
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<TtyFileEntry, Problem> {
        dump::describe(cx, fd, id)
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        dump::check(cx, problems);
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        dump::write(cx, images)
    }

    fn name(image: &TtyFileEntry) -> Option<u32> {
        image.regf_id
    }

    fn check(cx: &FilesRestore<'_>, image: &TtyFileEntry) -> Result<(), Problem> {
        restore::check(cx, image)
    }

    fn begin_session(
        cx: &mut FilesRestore<'_>,
        session: i32,
        leader: &mut RunBatch<'_>,
    ) -> Result<(), Problem> {
        restore::begin_session(cx, session, leader).while_trying_to("give the session its terminal")
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &TtyFileEntry) -> Result<OwnedFd, Problem> {
        restore::open(cx, image)
    }

    fn connect(
        cx: &mut FilesRestore<'_>,
        tasks: &mut dyn InTask,
        _image: &TtyFileEntry,
    ) -> Result<(), Problem> {
        restore::finish(cx, tasks)
    }
}
