//! Pseudo-terminals that must be there before the tasks are: something of the tree is mounted that shows the slave, such as
//! `/dev/console` of a container. The name is there only as long as the master is open.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::catalogue::{FILES, TTY_INFO};
use proto::messages::{FileEntry, TtyInfoEntry};

use crate::error::{Context as _, Problem, SysError};
use crate::image::Images;
use crate::sys::tty::{self, Number};

/// Device number of the multiplexer (`Documentation/admin-guide/devices.txt`).
const MULTIPLEXER: (u32, u32) = (5, 2);

/// A master that the tree has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// The number of the pseudo-terminal.
    pub index: u32,
    /// By which name.
    pub path: String,
    /// With which flags.
    pub flags: u32,
}

/// The masters of an image set.
pub fn masters(images: &Images) -> Result<Vec<Master>, Problem> {
    if !images.has(&TTY_INFO, 0) || !images.has(&FILES, 0) {
        return Ok(Vec::new());
    }
    let infos: Vec<TtyInfoEntry> = images.read(&TTY_INFO, 0)?;
    let files: Vec<FileEntry> = images.read(&FILES, 0)?;
    let master = |file: &FileEntry| {
        let tty = file.tty.as_ref()?;
        let info = infos.iter().find(|info| info.id == tty.tty_info_id)?;
        let device = u64::from(info.rdev);
        let is_master = (libc::major(device), libc::minor(device)) == MULTIPLEXER;
        let named = files.iter().filter_map(|file| file.reg.as_ref()).find(|reg| Some(reg.id) == tty.regf_id);
        let path = named.map_or_else(|| "/dev/ptmx".to_owned(), |reg| reg.name.clone());
        Some(Master { index: info.pty.filter(|_| is_master)?.index, path, flags: tty.flags })
    };
    Ok(files.iter().filter_map(master).collect())
}

/// Opens the multiplexer at a path until it gives this number; none if somebody else has the number.
pub fn open_master(index: u32, path: &str, flags: u32) -> Result<Option<OwnedFd>, Problem> {
    let flags = (OFlag::from_bits_retain(flags as i32) - OFlag::O_ASYNC) | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // The kernel gives the lowest free number, so those below must be taken meanwhile.
    let mut below = Vec::new();
    loop {
        let master = nix::fcntl::open(path, flags, Mode::empty()).map_err(SysError::of("open"));
        let master = master.while_trying_to("open the terminal multiplexer")?;
        match u32::try_from(tty::number(master.as_fd(), Number::Index)?).unwrap_or(0) {
            got if got == index => return Ok(Some(master)),
            got if got > index => return Ok(None),
            _ => below.push(master),
        }
    }
}
