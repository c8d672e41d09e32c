//! A pseudo-terminal that is made again: both sides, under the number that it had.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag};
use nix::sys::stat::Mode;
use proto::messages::{StasisTtyEntry, TermiosEntry, TtyInfoEntry};

use super::TtyRefusal;
use super::queue::{self, Queues};
use crate::error::{Context as _, Problem, SysError};
use crate::sys::tty::{self, Switch, Termios};
use crate::terminals;

/// Both sides of a pseudo-terminal, held until all tasks have theirs.
#[derive(Debug)]
pub(super) struct Pair {
    /// The description of the master.
    pub master: OwnedFd,
    /// A slave of our own; none if no task ever opened one.
    pub slave: Option<OwnedFd>,
}

/// Finds a number that is taken, before anything is created.
pub(super) fn check_index(index: u32) -> Result<(), Problem> {
    if std::path::Path::new(&format!("/dev/pts/{index}")).exists() {
        return Err(Problem::new(taken(index)));
    }
    Ok(())
}

fn taken(index: u32) -> TtyRefusal {
    TtyRefusal::IndexTaken { index, by: holder(index).unwrap_or_else(|| "another process".into()) }
}

/// A process that has the master of a pseudo-terminal open.
fn holder(index: u32) -> Option<String> {
    let line = format!("tty-index:\t{index}\n");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        let mut texts = infos.filter_map(|info| std::fs::read_to_string(info.path()).ok());
        texts.any(|text| text.ends_with(&line))
    };
    let pid = pids.into_iter().find(holds)?;
    crate::tracee::freeze::task_name(pid).map(|name| name.to_string())
}

impl Pair {
    /// Opens the multiplexer at `path` until it gives the number.
    pub(super) fn open(index: u32, path: &str, flags: u32) -> Result<Self, Problem> {
        let master = terminals::open_master(index, path, flags)?;
        Self::with_master(master.ok_or_else(|| Problem::new(taken(index)))?)
    }

    /// Takes a master that is open already.
    pub(super) fn with_master(master: OwnedFd) -> Result<Self, Problem> {
        tty::turn(master.as_fd(), Switch::Locked, false)?;
        Ok(Self { master, slave: None })
    }

    /// Opens a slave.
    pub(super) fn open_slave(&self, flags: u32) -> Result<OwnedFd, SysError> {
        // Opened in this way, the description would keep O_CLOEXEC among its own flags.
        let spent = OFlag::O_ASYNC | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let flags = (OFlag::from_bits_retain(flags as i32) - spent) | OFlag::O_NOCTTY;
        let slave = tty::open_slave(self.master.as_fd(), flags.bits())?;
        let cloexec = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        nix::fcntl::fcntl(&slave, cloexec).map_err(SysError::of("fcntl(F_SETFD)"))?;
        Ok(slave)
    }

    /// Gives it settings, size, owner and queued data.
    pub(super) fn fill(
        &mut self,
        info: &TtyInfoEntry,
        own: &StasisTtyEntry,
        queues: &Queues,
        slave_is_open: bool,
    ) -> Result<(), Problem> {
        let master = self.master.as_fd();
        if let Some(size) = &info.winsize {
            let window = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel].map(|n| n as u16);
            tty::set_window(master, window).while_trying_to("set the size of its window")?;
        }
        let termios = match &info.termios {
            Some(entry) => termios(entry),
            None => tty::termios(master)?,
        };
        tty::set_termios(master, &termios).while_trying_to("set its settings")?;
        let was_open = slave_is_open || own.slave_closed();
        let slave =
            if was_open { Some(self.open_slave((libc::O_RDWR | libc::O_NONBLOCK) as u32)?) } else { None };
        if let Some(slave) = &slave {
            set_owner(slave.as_fd(), info, own)?;
        }
        let slave_fd = slave.as_ref().map(|slave| slave.as_fd());
        queue::put(master, slave_fd, queues, &termios).while_trying_to("write what was not read yet")?;
        if let (Some(slave), true) = (slave_fd, queues.stopped) {
            queue::stop(slave, &termios).while_trying_to("stop its output")?;
        }
        if let Some(locked) = &info.termios_locked {
            let locked = self::termios(locked);
            if locked != Termios::default() {
                tty::set_locked_termios(master, &locked).while_trying_to("lock its settings")?;
            }
        }
        self.slave = slave.filter(|_| slave_is_open);
        Ok(())
    }

    /// What must wait until everything has been opened and written.
    pub(super) fn finish(
        &self,
        master: Option<&TtyInfoEntry>,
        slave: Option<&TtyInfoEntry>,
    ) -> Result<(), SysError> {
        let fd = self.master.as_fd();
        if let (Some(slave), true) = (&self.slave, slave.is_some_and(|info| info.exclusive)) {
            tty::make_exclusive(slave.as_fd())?;
        }
        let Some(info) = master else { return Ok(()) };
        if info.exclusive {
            tty::make_exclusive(fd)?;
        }
        if info.packet_mode {
            tty::turn(fd, Switch::PacketMode, true)?;
        }
        if info.locked {
            tty::turn(fd, Switch::Locked, true)?;
        }
        Ok(())
    }
}

/// Gives the slave's name the owner and the permissions that it had.
fn set_owner(slave: BorrowedFd<'_>, info: &TtyInfoEntry, own: &StasisTtyEntry) -> Result<(), Problem> {
    let stat = nix::sys::stat::fstat(slave).map_err(SysError::of("fstat"))?;
    let (uid, gid) = (info.uid.unwrap_or(stat.st_uid), info.gid.unwrap_or(stat.st_gid));
    if (uid, gid) != (stat.st_uid, stat.st_gid) {
        nix::unistd::fchown(slave, Some(uid.into()), Some(gid.into())).map_err(SysError::of("fchown"))?;
    }
    if let Some(mode) = own.mode {
        let mode = Mode::from_bits_truncate(mode);
        nix::sys::stat::fchmod(slave, mode).map_err(SysError::of("fchmod"))?;
    }
    Ok(())
}

/// Characters in an entry: 19, of which the format has four in a word, and room for as many words.
const CHARACTERS: usize = 19;

/// Settings as images hold them.
pub(super) fn describe_termios(termios: &Termios) -> TermiosEntry {
    let mut c_cc = vec![0; CHARACTERS];
    for (at, byte) in termios.c_cc.iter().enumerate() {
        if let Some(word) = c_cc.get_mut(at / 4) {
            *word |= u32::from(*byte) << (8 * (at % 4));
        }
    }
    TermiosEntry {
        c_iflag: termios.c_iflag,
        c_oflag: termios.c_oflag,
        c_cflag: termios.c_cflag,
        c_lflag: termios.c_lflag,
        c_line: termios.c_line.into(),
        c_ispeed: termios.c_ispeed,
        c_ospeed: termios.c_ospeed,
        c_cc,
    }
}

/// Settings from an image.
fn termios(entry: &TermiosEntry) -> Termios {
    let mut c_cc = [0; CHARACTERS];
    let bytes = entry.c_cc.iter().flat_map(|word| word.to_le_bytes());
    c_cc.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
    Termios {
        c_iflag: entry.c_iflag,
        c_oflag: entry.c_oflag,
        c_cflag: entry.c_cflag,
        c_lflag: entry.c_lflag,
        c_line: entry.c_line as u8,
        c_cc,
        c_ispeed: entry.c_ispeed,
        c_ospeed: entry.c_ospeed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_packed_as_the_format_has_them() {
        let mut sent = Termios { c_iflag: 1280, c_cflag: 191, c_ispeed: 38400, ..Termios::default() };
        sent.c_cc = [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0];
        let entry = describe_termios(&sent);
        // As in an image of CRIU's.
        assert_eq!(
            entry.c_cc.iter().take(4).copied().collect::<Vec<_>>(),
            [360_651_779, 65540, 1_708_817, 370_609_938]
        );
        assert_eq!(termios(&entry), sent);
    }
}
