//! Terminals of a tree that is being restored.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::catalogue::{STASIS_TTY, TTY_DATA, TTY_INFO};
use proto::messages::{StasisTtyEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyType};

use super::pair::{self, Pair};
use super::queue::{Queue, Queues};
use super::{Tty, TtyRefusal, info_id};
use crate::args;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, invalid};
use crate::kinds::files::{FilesRestore, InTask, RunBatch, set_common};
use crate::pid_spaces::PidInside;
use crate::sys::{pidfd, process};
use crate::tracee::batch::Batch;

/// What the images say of all terminals.
#[derive(Debug, Default, Clone)]
struct Terminals {
    infos: BTreeMap<u32, TtyInfoEntry>,
    own: BTreeMap<u32, StasisTtyEntry>,
    data: BTreeMap<u32, Vec<u8>>,
}

/// What has been made of them.
#[derive(Debug, Default)]
struct Restored {
    terminals: Option<Terminals>,
    pairs: BTreeMap<u32, Pair>,
    /// Sessions that begin in the tree.
    sessions: BTreeSet<u32>,
    /// Descriptors that were opened as `/dev/tty`, by the id of the file.
    own: BTreeMap<u32, OwnedFd>,
    is_finished: bool,
}

/// What an entry of `tty-info.img` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Master(u32),
    Slave(u32),
    Own,
    Device,
}

impl Role {
    fn of(info: &TtyInfoEntry) -> Self {
        let index = info.pty.map(|pty| pty.index);
        match (info.r#type(), index) {
            (TtyType::Ctty, _) => Self::Own,
            (_, Some(index)) if super::Device::of(info.rdev.into()) == Some(super::Device::Master) => {
                Self::Master(index)
            }
            (TtyType::Pty, Some(index)) => Self::Slave(index),
            _ => Self::Device,
        }
    }
}

impl Terminals {
    fn read(images: &Images) -> Result<Self, Problem> {
        let mut terminals = Self::default();
        let infos: Vec<TtyInfoEntry> = images.read(&TTY_INFO, 0)?;
        terminals.infos = infos.into_iter().map(|info| (info.id, info)).collect();
        if images.has(&STASIS_TTY, 0) {
            let own: Vec<StasisTtyEntry> = images.read(&STASIS_TTY, 0)?;
            terminals.own = own.into_iter().map(|entry| (entry.tty_id, entry)).collect();
        }
        if images.has(&TTY_DATA, 0) {
            let data: Vec<TtyDataEntry> = images.read(&TTY_DATA, 0)?;
            terminals.data = data.into_iter().map(|entry| (entry.tty_id, entry.data)).collect();
        }
        Ok(terminals)
    }

    fn info(&self, id: u32) -> Result<&TtyInfoEntry, Problem> {
        self.infos.get(&id).ok_or_else(|| invalid(&TTY_INFO, 0, "a descriptor's terminal is missing"))
    }

    /// The entry of a side of a pseudo-terminal.
    fn side(&self, role: Role) -> Option<&TtyInfoEntry> {
        self.infos.values().find(|info| Role::of(info) == role)
    }

    fn own(&self, index: u32) -> StasisTtyEntry {
        self.own.get(&info_id::slave(index)).cloned().unwrap_or_default()
    }

    /// Whether the master comes back with the tree, if only to hang up.
    fn is_made(&self, index: u32) -> bool {
        self.side(Role::Master(index)).is_some() || self.own(index).hung_up()
    }

    fn queues(&self, index: u32) -> Queues {
        let own = self.own(index);
        let bytes = |role| {
            let id = match role {
                Role::Master(index) => info_id::master(index),
                _ => info_id::slave(index),
            };
            let id = self.side(role).map_or(id, |info| info.id);
            self.data.get(&id).cloned().unwrap_or_default()
        };
        Queues {
            to_master: Queue { bytes: bytes(Role::Master(index)), ends: Vec::new() },
            to_slave: Queue {
                bytes: bytes(Role::Slave(index)),
                ends: own.end_of_file.iter().map(|at| *at as usize).collect(),
            },
            stopped: own.stopped(),
        }
    }
}

/// The terminals, read once.
fn terminals(cx: &mut FilesRestore<'_>) -> Result<Terminals, Problem> {
    if let Some(terminals) = &cx.state::<Restored>().terminals {
        return Ok(terminals.clone());
    }
    let terminals =
        if cx.images.has(&TTY_INFO, 0) { Terminals::read(cx.images)? } else { Terminals::default() };
    Ok(cx.state::<Restored>().terminals.insert(terminals).clone())
}

/// The terminal of whoever restores.
fn current_terminal() -> Option<PathBuf> {
    let stdio =
        [std::io::stdin().as_fd().try_clone_to_owned(), std::io::stdout().as_fd().try_clone_to_owned()];
    let mut stdio = stdio.into_iter().chain([std::io::stderr().as_fd().try_clone_to_owned()]).flatten();
    let name = |fd: OwnedFd| nix::unistd::ttyname(fd.as_fd()).ok();
    stdio.find_map(name)
}

/// Finds what stands in the way of a descriptor.
pub(super) fn check(cx: &FilesRestore<'_>, image: &TtyFileEntry) -> Result<(), Problem> {
    let terminals = Terminals::read(cx.images)?;
    let info = terminals.info(image.tty_info_id)?;
    let checked = match Role::of(info) {
        Role::Master(index) if cx.options.inside.masters.get(index).is_some() => Ok(()),
        Role::Master(index) => pair::check_index(index),
        Role::Slave(index) if terminals.own(index).hung_up() => pair::check_index(index),
        Role::Slave(index) if terminals.is_made(index) => Ok(()),
        Role::Slave(_) if !cx.options.shell_job || current_terminal().is_none() => {
            Err(Problem::new(TtyRefusal::NoReplacement))
        }
        Role::Slave(_) | Role::Own => Ok(()),
        Role::Device => {
            let path = path(cx, image);
            let object = || Object::Path(path.clone().into());
            nix::sys::stat::stat(path.as_str()).map(|_| ()).map_err(SysError::of("stat")).about(object)
        }
    };
    checked.about(|| Object::Path(path(cx, image).into()))
}

/// The name by which a descriptor was opened.
fn path(cx: &FilesRestore<'_>, image: &TtyFileEntry) -> String {
    let named = image.regf_id.and_then(|id| cx.regular(id).ok()).map(|file| file.name.clone());
    named.unwrap_or_else(|| "/dev/ptmx".into())
}

/// Makes a pseudo-terminal if it is not there yet.
fn make(cx: &mut FilesRestore<'_>, terminals: &Terminals, index: u32) -> Result<(), Problem> {
    if cx.state::<Restored>().pairs.contains_key(&index) {
        return Ok(());
    }
    let files = cx.images_of::<Tty>();
    let role = |file: &TtyFileEntry| terminals.infos.get(&file.tty_info_id).map(Role::of);
    let of_index = |file: &TtyFileEntry| {
        let info = terminals.infos.get(&file.tty_info_id);
        info.is_some_and(|info| info.pty.is_some_and(|pty| pty.index == index))
    };
    let master = files.iter().find(|file| role(file) == Some(Role::Master(index)));
    let slave_is_open = files.iter().any(|file| of_index(file) && role(file) != Some(Role::Master(index)));
    let (path, flags) = match master {
        Some(master) => (path(cx, master), master.flags),
        None => ("/dev/ptmx".into(), libc::O_RDWR as u32),
    };
    let pair = match cx.options.inside.masters.get(index) {
        Some(master) => Pair::with_master(master.try_clone_to_owned().map_err(SysError::io("dup"))?),
        None => Pair::open(index, &path, flags),
    };
    let mut pair = pair.about(|| Object::Path(path.clone().into()))?;
    let info = terminals.side(Role::Slave(index)).or_else(|| terminals.side(Role::Master(index)));
    let info = info.ok_or_else(|| invalid(&TTY_INFO, 0, "a pseudo-terminal is missing"))?;
    pair.fill(info, &terminals.own(index), &terminals.queues(index), slave_is_open)
        .about(|| Object::Path(format!("/dev/pts/{index}").into()))?;
    cx.state::<Restored>().pairs.insert(index, pair);
    Ok(())
}

/// Lets the leader of a new session take its terminal, while it has no children yet: they will inherit it.
pub(super) fn begin_session(
    cx: &mut FilesRestore<'_>,
    session: i32,
    leader: &mut RunBatch<'_>,
) -> Result<(), Problem> {
    let terminals = terminals(cx)?;
    let sid = session as u32;
    cx.state::<Restored>().sessions.insert(sid);
    let Some(info) = terminals.infos.values().find(|info| info.sid == sid) else { return Ok(()) };
    let terminal = match info.pty {
        Some(pty) if terminals.is_made(pty.index) => {
            make(cx, &terminals, pty.index)?;
            let pair = cx.state::<Restored>().pairs.get(&pty.index);
            let slave = pair.and_then(|pair| pair.slave.as_ref());
            let slave = slave.ok_or_else(|| invalid(&TTY_INFO, 0, "a session's terminal has no slave"))?;
            slave.try_clone().map_err(SysError::io("dup"))?
        }
        Some(_) => return Err(Problem::new(TtyRefusal::NeedsOwn(sid))),
        None => {
            let files = cx.images_of::<Tty>();
            let file = files.iter().find(|file| {
                let info = terminals.infos.get(&file.tty_info_id);
                info.is_some_and(|info| info.sid == sid && Role::of(info) == Role::Device)
            });
            let file = file.ok_or_else(|| Problem::new(TtyRefusal::NeedsOwn(sid)))?;
            open_device(&path(cx, file), file.flags)?
        }
    };
    let mut batch = Batch::new();
    let fd = batch.fd(terminal.as_fd());
    batch.call("ioctl(TIOCSCTTY)", libc::SYS_ioctl, args![fd, libc::TIOCSCTTY, 0]);
    batch.call("close", libc::SYS_close, args![fd]);
    leader(&batch)?;
    for file in cx.images_of::<Tty>() {
        let info = terminals.info(file.tty_info_id)?;
        if info.sid == sid && Role::of(info) == Role::Own {
            let opened = open_in(leader, session, &file)?;
            cx.state::<Restored>().own.insert(file.id, opened);
        }
    }
    Ok(())
}

/// Has a session's leader open `/dev/tty`, and takes the descriptor.
fn open_in(leader: &mut RunBatch<'_>, pid: i32, file: &TtyFileEntry) -> Result<OwnedFd, Problem> {
    let mut batch = Batch::new();
    let path = batch.input_str(b"/dev/tty");
    let flags = (open_flags(file.flags) | OFlag::O_CLOEXEC).bits();
    let opened = batch.call("openat", libc::SYS_openat, args![libc::AT_FDCWD, path, flags]);
    let number = leader(&batch)?.result(opened)?;
    let taken = pidfd::getfd(pidfd::open(pid)?, number as i32)?;
    let mut batch = Batch::new();
    batch.call("close", libc::SYS_close, args![number as u64]);
    leader(&batch)?;
    Ok(taken)
}

/// What opens it again as it was open.
fn open_flags(flags: u32) -> OFlag {
    let spent = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_TRUNC | OFlag::O_ASYNC;
    (OFlag::from_bits_retain(flags as i32) - spent) | OFlag::O_NOCTTY | OFlag::O_CLOEXEC
}

fn open_device(path: &str, flags: u32) -> Result<OwnedFd, Problem> {
    // Serial lines wait for a carrier otherwise; what the descriptor had is set afterwards.
    let flags = open_flags(flags) | OFlag::O_NONBLOCK;
    let opened = nix::fcntl::open(path, flags, Mode::empty()).map_err(SysError::of("open"));
    opened.about(|| Object::Path(path.into()))
}

/// Whether a name other than that in `/dev/pts` leads to a slave, such as `/dev/console` in a container.
fn is_another_name(path: &str, index: u32) -> bool {
    let stat = nix::sys::stat::stat(path);
    path != format!("/dev/pts/{index}")
        && stat.is_ok_and(|stat| super::Device::of(stat.st_rdev) == Some(super::Device::Slave(index)))
}

/// Makes a description.
pub(super) fn open(cx: &mut FilesRestore<'_>, image: &TtyFileEntry) -> Result<OwnedFd, Problem> {
    let terminals = terminals(cx)?;
    let info = terminals.info(image.tty_info_id)?;
    let path = path(cx, image);
    let fd = match Role::of(info) {
        Role::Master(index) => {
            make(cx, &terminals, index)?;
            let pair = cx.state::<Restored>().pairs.get(&index);
            pair.map(|pair| pair.master.try_clone()).transpose().map_err(SysError::io("dup"))?
        }
        Role::Slave(index) if terminals.is_made(index) => {
            make(cx, &terminals, index)?;
            let pair = cx.state::<Restored>().pairs.get(&index);
            match pair {
                Some(_) if is_another_name(&path, index) => Some(open_device(&path, image.flags)?),
                pair => pair.map(|pair| pair.open_slave(image.flags)).transpose()?,
            }
        }
        Role::Slave(_) => {
            let current = current_terminal().ok_or_else(|| Problem::new(TtyRefusal::NoReplacement))?;
            Some(open_device(&String::from_utf8_lossy(current.as_os_str().as_bytes()), image.flags)?)
        }
        Role::Own => match cx.state::<Restored>().own.remove(&image.id) {
            Some(fd) => Some(fd),
            None if cx.state::<Restored>().sessions.contains(&info.sid) || info.sid == 0 => {
                return Err(Problem::new(TtyRefusal::GivenUp));
            }
            None => Some(open_device("/dev/tty", image.flags)?),
        },
        Role::Device => Some(open_device(&path, image.flags)?),
    };
    let fd = fd.ok_or_else(|| invalid(&TTY_INFO, 0, "a pseudo-terminal is missing"))?;
    set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
    Ok(fd)
}

/// What must wait until all tasks have their terminals and are in their groups.
pub(super) fn finish(cx: &mut FilesRestore<'_>, tasks: &mut dyn InTask) -> Result<(), Problem> {
    if std::mem::replace(&mut cx.state::<Restored>().is_finished, true) {
        return Ok(());
    }
    let terminals = terminals(cx)?;
    let sessions = cx.state::<Restored>().sessions.clone();
    for (index, pair) in &cx.state::<Restored>().pairs {
        let about = || Object::Path(format!("/dev/pts/{index}").into());
        pair.finish(terminals.side(Role::Master(*index)), terminals.side(Role::Slave(*index)))
            .about(about)?;
        let Some(slave) = &pair.slave else { continue };
        let controlling = |info: &&TtyInfoEntry| {
            info.pty.is_some_and(|pty| pty.index == *index) && sessions.contains(&info.sid)
        };
        let Some(info) = terminals.infos.values().find(controlling) else { continue };
        let group = tasks.seen_from(info.sid as i32, info.pgrp as i32).map_or(0, PidInside::number);
        tasks
            .run_in(info.sid as i32, &mut |_, batch| {
                let (fd, group) = (batch.fd(slave.as_fd()), batch.input(&[group]));
                // The group may have ended, and nobody can be put into it then.
                batch.try_call("ioctl(TIOCSPGRP)", libc::SYS_ioctl, args![fd, libc::TIOCSPGRP, group]);
                batch.call("close", libc::SYS_close, args![fd]);
            })
            .about(about)?;
        for task in terminals.own(*index).given_up {
            tasks
                .run_in(task as i32, &mut |_, batch| {
                    let fd = batch.fd(slave.as_fd());
                    batch.call("ioctl(TIOCNOTTY)", libc::SYS_ioctl, args![fd, libc::TIOCNOTTY]);
                    batch.call("close", libc::SYS_close, args![fd]);
                })
                .about(about)?;
        }
    }
    foreground_job(&terminals, &sessions)
}

/// Puts a job into the foreground of the current terminal if it was in that of the terminal it came from, and we are.
fn foreground_job(terminals: &Terminals, sessions: &BTreeSet<u32>) -> Result<(), Problem> {
    let foreign = |info: &&TtyInfoEntry| {
        let made = info.pty.is_some_and(|pty| terminals.is_made(pty.index));
        info.sid != 0 && info.pgrp != 0 && !made && !sessions.contains(&info.sid)
    };
    let Some(info) = terminals.infos.values().find(foreign) else { return Ok(()) };
    let Ok(terminal) = nix::fcntl::open("/dev/tty", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()) else {
        return Ok(());
    };
    if nix::unistd::tcgetpgrp(terminal.as_fd()).map_err(SysError::of("tcgetpgrp"))? != nix::unistd::getpgrp()
    {
        return Ok(());
    }
    process::block(nix::sys::signal::Signal::SIGTTOU)?;
    let group = nix::unistd::Pid::from_raw(info.pgrp as i32);
    match nix::unistd::tcsetpgrp(terminal.as_fd(), group) {
        // The group that was in the foreground was not the job's: the shell's own, say.
        Ok(()) | Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EPERM) => Ok(()),
        Err(errno) => Err(Problem::new(SysError { call: "tcsetpgrp", errno })),
    }
}
