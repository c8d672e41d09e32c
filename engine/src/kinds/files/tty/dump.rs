//! Terminals of a tree that is being dumped.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use proto::messages::{
    RegFileEntry, StasisTtyEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry, TtyType,
    WinsizeEntry,
};

use super::pair::describe_termios;
use super::queue::{self, Queues};
use super::{Device, TtyRefusal, info_id};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::files::{FdFacts, FilesDump, SeenTask};
use crate::procfs::link::Link;
use crate::sys::tty::{self, Number};

/// Terminals that were seen so far.
#[derive(Debug, Default)]
struct Dumped {
    /// By their id in the image, with the device behind each.
    infos: BTreeMap<u32, (u64, TtyInfoEntry)>,
    /// Pseudo-terminals by their number.
    pairs: BTreeMap<u32, Ends>,
}

/// What is known of the sides of a pseudo-terminal.
#[derive(Debug, Default)]
struct Ends {
    /// A duplicate of the master.
    master: Option<(OwnedFd, Object)>,
    /// A descriptor of the slave.
    slave: Option<Object>,
    /// The slave's master is gone.
    hung_up: bool,
    /// Permissions of the slave's name.
    mode: Option<u32>,
}

/// Describes one descriptor, and its terminal when it is met for the first time.
pub(super) fn describe(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<TtyFileEntry, Problem> {
    let fown = fd.owner().while_trying_to("read the owner of its signals")?;
    let name = match fd.link() {
        Link::Path(path) | Link::Deleted(path) | Link::Unreachable(path) => path,
        _ => &fd.link,
    };
    let name = RegFileEntry {
        flags: fd.flags() as u32,
        fown,
        name: String::from_utf8_lossy(name).into_owned(),
        mode: Some(fd.stat.st_mode),
        ..RegFileEntry::default()
    };
    let tty_info_id = terminal(cx, fd)?;
    let regf_id = Some(cx.add_name(name));
    Ok(TtyFileEntry { id, tty_info_id, flags: fd.flags() as u32, fown, regf_id })
}

/// The id of a descriptor's terminal.
fn terminal(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>) -> Result<u32, Problem> {
    let device = Device::of(fd.stat.st_rdev).unwrap_or(Device::Serial);
    let end = fd.dup()?;
    let behind = match tty::number(end, Number::Device) {
        Ok(encoded) => decode_device(encoded),
        Err(SysError { errno: Errno::EIO, .. }) => return Ok(hung_up(cx, fd)),
        Err(e) => return Err(Problem::new(e)),
    };
    let discipline = tty::number(end, Number::Discipline)?;
    if discipline != 0 {
        return Err(Problem::new(TtyRefusal::Discipline(discipline)));
    }
    let (id, r#type, index) = match (device, Device::of(behind)) {
        (Device::Master, _) => {
            let index = u32::try_from(tty::number(end, Number::Index)?).unwrap_or(0);
            (info_id::master(index), TtyType::Pty, Some(index))
        }
        (Device::Slave(index), _) => (info_id::slave(index), TtyType::Pty, Some(index)),
        (Device::Own, Some(Device::Slave(index))) => (info_id::own(index), TtyType::Ctty, Some(index)),
        (Device::Own, _) => (info_id::device(behind as u32), TtyType::Ctty, None),
        (Device::Console, _) => (info_id::device(fd.stat.st_rdev as u32), TtyType::Console, None),
        (Device::Virtual, _) => (info_id::device(fd.stat.st_rdev as u32), TtyType::Vt, None),
        (Device::Serial, _) => (info_id::device(fd.stat.st_rdev as u32), TtyType::Serial, None),
    };
    let mut owner = (fd.stat.st_uid, fd.stat.st_gid);
    if let Some(index) = index {
        let own = end.try_clone_to_owned().map_err(SysError::io("dup"))?;
        let ends = cx.state::<Dumped>().pairs.entry(index).or_default();
        if device == Device::Master {
            ends.master = Some((own, fd.object()));
            let name = nix::sys::stat::stat(format!("/dev/pts/{index}").as_str());
            if let Ok(name) = name.map_err(SysError::of("stat"))
                && Device::of(name.st_rdev) == Some(Device::Slave(index))
            {
                owner = (name.st_uid, name.st_gid);
                ends.mode = Some(name.st_mode & 0o7777);
            }
        } else {
            ends.slave = Some(fd.object());
            if device != Device::Own {
                ends.mode = Some(fd.stat.st_mode & 0o7777);
            }
        }
    }
    if let Entry::Vacant(place) = cx.state::<Dumped>().infos.entry(id) {
        let mut info = inspect(fd, device == Device::Master)?;
        (info.id, info.r#type, info.pty) = (id, r#type.into(), index.map(|index| TtyPtyEntry { index }));
        (info.uid, info.gid) = (Some(owner.0), Some(owner.1));
        place.insert((behind, info));
    }
    Ok(id)
}

/// Describes a slave whose master is gone: nothing but its number is left.
fn hung_up(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>) -> u32 {
    let index = libc::minor(fd.stat.st_rdev);
    let id = info_id::slave(index);
    let dumped = cx.state::<Dumped>();
    dumped.pairs.entry(index).or_default().hung_up = true;
    let info = TtyInfoEntry {
        id,
        r#type: TtyType::Pty.into(),
        rdev: fd.stat.st_rdev as u32,
        dev: Some(fd.stat.st_dev as u32),
        pty: Some(TtyPtyEntry { index }),
        ..TtyInfoEntry::default()
    };
    dumped.infos.insert(id, (fd.stat.st_rdev, info));
    id
}

/// A device number as `TIOCGDEV` and `/proc/PID/stat` give it, in 32 bits (`new_encode_dev` in `include/linux/kdev_t.h`).
fn decode_device(encoded: i32) -> u64 {
    let encoded = encoded.cast_unsigned();
    libc::makedev((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00))
}

/// What a terminal tells of itself.
fn inspect(fd: &FdFacts<'_>, is_master: bool) -> Result<TtyInfoEntry, Problem> {
    let end = fd.dup()?;
    let ask = |what| tty::number(end, what).map(|value| value != 0);
    let [ws_row, ws_col, ws_xpixel, ws_ypixel] = tty::window(end)?.map(u32::from);
    Ok(TtyInfoEntry {
        locked: is_master && ask(Number::Locked)?,
        exclusive: ask(Number::Exclusive)?,
        packet_mode: is_master && ask(Number::PacketMode)?,
        rdev: fd.stat.st_rdev as u32,
        termios: Some(describe_termios(&tty::termios(end)?)),
        termios_locked: Some(describe_termios(&tty::locked_termios(end)?)),
        winsize: Some(WinsizeEntry { ws_row, ws_col, ws_xpixel, ws_ypixel }),
        dev: Some(fd.stat.st_dev as u32),
        ..TtyInfoEntry::default()
    })
}

/// Finds what only all descriptors and tasks together show.
pub(super) fn check(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
    let tasks = cx.tasks().to_vec();
    let shell_job = cx.options.shell_job;
    let dumped = cx.state::<Dumped>();
    for ends in dumped.pairs.values() {
        match (&ends.master, &ends.slave) {
            (Some((master, object)), _) => {
                let checked = check_master(master, &tasks);
                problems.extend(checked.err().map(|p| p.object(object.clone())));
            }
            (None, Some(object)) if !shell_job => {
                problems.push(Problem::new(TtyRefusal::NoMaster).object(object.clone()));
            }
            _ => {}
        }
    }
    let open: BTreeSet<u64> = dumped.infos.values().map(|(behind, _)| *behind).collect();
    let sessions: BTreeSet<u32> = tasks.iter().map(|task| task.pid).collect();
    let blind = tasks.iter().filter(|task| task.terminal != 0 && sessions.contains(&task.session));
    for task in blind {
        let device = decode_device(task.terminal);
        if !open.contains(&device) {
            let (major, minor) = (libc::major(device), libc::minor(device));
            problems.push(Problem::new(TtyRefusal::NotOpen { major, minor }).task(&task.name));
        }
    }
}

fn check_master(master: &OwnedFd, tasks: &[SeenTask]) -> Result<(), Problem> {
    let session = match tty::number(master.as_fd(), Number::Session) {
        Ok(session) => session,
        Err(SysError { errno: Errno::ENOTTY, .. }) => 0,
        Err(e) => return Err(Problem::new(e)),
    };
    // A mere look at the descriptors knows no tasks.
    let is_inside = |task: &SeenTask| task.host_session == session;
    if session != 0 && !tasks.is_empty() && !tasks.iter().any(is_inside) {
        return Err(Problem::new(TtyRefusal::SessionOutside(session)));
    }
    let is_pending = poll(master, PollFlags::POLLPRI)?;
    if is_pending { Err(Problem::new(TtyRefusal::StatusPending)) } else { Ok(()) }
}

/// Whether a master has one of these events.
fn poll(master: &OwnedFd, events: PollFlags) -> Result<bool, SysError> {
    let mut polled = [PollFd::new(master.as_fd(), events)];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(SysError::of("poll"))?;
    let [polled] = polled;
    Ok(polled.revents().is_some_and(|now| now.intersects(events)))
}

/// Copies queued data, and writes everything.
pub(super) fn write(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let tasks = cx.tasks().to_vec();
    let dumped = std::mem::take(cx.state::<Dumped>());
    if dumped.infos.is_empty() {
        return Ok(());
    }
    let mut infos = Vec::new();
    for (behind, mut info) in dumped.infos.into_values() {
        let has = |task: &&SeenTask| task.terminal != 0 && decode_device(task.terminal) == behind;
        if let Some(task) = tasks.iter().find(has) {
            info.sid = task.session;
            info.pgrp = u32::try_from(task.foreground).unwrap_or(0);
        }
        infos.push(info);
    }
    let (mut data, mut own) = (Vec::new(), Vec::new());
    for (index, ends) in dumped.pairs {
        let session = infos.iter().find(|info| info.id == info_id::slave(index)).map_or(0, |info| info.sid);
        let about = || ends.master.as_ref().map_or(Object::Path("/dev/ptmx".into()), |(_, o)| o.clone());
        let (closed, queues) =
            copy(index, &ends).about(about).while_trying_to("copy what is queued in it")?;
        let given_up =
            tasks.iter().filter(|task| session != 0 && task.session == session && task.terminal == 0);
        own.push(StasisTtyEntry {
            tty_id: info_id::slave(index),
            end_of_file: queues.to_slave.ends.iter().map(|at| *at as u32).collect(),
            slave_closed: closed.then_some(true),
            hung_up: ends.hung_up.then_some(true),
            mode: ends.mode,
            given_up: given_up.map(|task| task.pid).collect(),
            stopped: queues.stopped.then_some(true),
        });
        let sides = [
            (info_id::master(index), queues.to_master.bytes),
            (info_id::slave(index), queues.to_slave.bytes),
        ];
        let filled = sides.into_iter().filter(|(_, data)| !data.is_empty());
        data.extend(filled.map(|(tty_id, data)| TtyDataEntry { tty_id, data }));
    }
    images.write(&proto::catalogue::TTY_INFO, 0, &infos)?;
    images.write(&proto::catalogue::STASIS_TTY, 0, &own)?;
    if data.is_empty() { Ok(()) } else { images.write(&proto::catalogue::TTY_DATA, 0, &data) }
}

/// Whether the slave has been closed, and what is queued.
fn copy(index: u32, ends: &Ends) -> Result<(bool, Queues), Problem> {
    let Some((master, _)) = &ends.master else { return Ok((false, Queues::default())) };
    let closed = ends.slave.is_none() && poll(master, PollFlags::POLLHUP)?;
    // Opening a slave for the first time could not be undone: the master tells when all have been closed.
    let slave = if ends.slave.is_some() || closed {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        match tty::open_slave(master.as_fd(), flags) {
            Ok(slave) => Some(slave),
            // Locked again after it was opened.
            Err(SysError { errno: Errno::EIO, .. }) => {
                log::warn!("/dev/pts/{index} is locked: what was typed into it is not saved");
                None
            }
            Err(e) => return Err(Problem::new(e)),
        }
    } else {
        None
    };
    Ok((closed, queue::copy(master.as_fd(), slave.as_ref().map(|slave| slave.as_fd()))?))
}
