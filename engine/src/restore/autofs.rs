//! Autofs mounts get their daemons back (`crate::mounts::autofs`): each its pipe, by a task of the daemon's group, since a mount has the
//! group of whoever gives it a pipe. It is the last that is done to mounts: from then on whoever uses them waits for the daemon.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};

use super::mount_spaces;
use super::set::Task;
use super::stub::Stubs;
use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::image::Images;
use crate::kinds::files::{FilesRestore, pipe};
use crate::kinds::namespaces::mnt;
use crate::mounts::autofs::{CONTROL, Daemon};
use crate::options::RestoreOptions;
use crate::sys::autofs as sys;
use crate::sys::fcntl::borrow;
use crate::sys::mount;
use crate::tracee::batch::{Arg, Batch};

/// Wakes all of them.
pub(super) fn wake(
    stubs: &mut Stubs,
    tasks: &[Task],
    images: &Images,
    options: &RestoreOptions,
    files: &FilesRestore<'_>,
) -> Result<(), Problem> {
    let covered = &options.inside.covered;
    if !covered.iter().any(|(id, _)| id & CONTROL != 0) {
        return Ok(());
    }
    let device = open_device().while_trying_to("open the device of autofs")?;
    for daemon in mnt::daemons(options, images, &mount_spaces::ids(tasks, options))? {
        let control = covered.iter().find(|(id, _)| *id == daemon.mount | CONTROL);
        let Some(control) = control.and_then(|(_, fd)| borrow(*fd)) else { continue };
        let Some(writer) = pipe::writer(files, daemon.pipe) else { continue };
        let (control, writer) = (control.try_clone_to_owned(), writer.try_clone());
        let control = control.map_err(SysError::io("dup"))?;
        give(stubs, tasks, files, daemon, [&device, &control, &writer.map_err(SysError::io("dup"))?])?;
    }
    Ok(())
}

/// The file system of devices may be one of the tree's own, so the node is one of ours.
fn open_device() -> Result<OwnedFd, SysError> {
    let folder = mount::private_tmpfs()?;
    let (major, minor) = sys::DEVICE;
    let (name, mode) = ("autofs", Mode::S_IRUSR | Mode::S_IWUSR);
    mknodat(&folder, name, SFlag::S_IFCHR, mode, makedev(major, minor)).map_err(SysError::of("mknod"))?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(&folder, name, flags, Mode::empty()).map_err(SysError::of("open"))
}

/// Has a task of a daemon's group give a mount its pipe, under the number that it had if that is free.
fn give(
    stubs: &mut Stubs,
    tasks: &[Task],
    files: &FilesRestore<'_>,
    daemon: Daemon,
    [device, control, writer]: [&OwnedFd; 3],
) -> Result<(), Problem> {
    let step = "give an autofs mount its daemon's pipe";
    let is_there = |task: &Task| task.pgid == daemon.group && task.alive.is_some();
    let nobody =
        || Problem::new(SysError { call: "find the daemon's group", errno: Errno::ESRCH }).step(step);
    let at = tasks.iter().position(is_there).ok_or_else(nobody)?;
    let table = stubs.0.get(at).map(|stub| stub.table);
    let sharing = tasks.iter().zip(&stubs.0).filter(|(_, stub)| Some(stub.table) == table);
    let taken: BTreeSet<i32> = sharing
        .flat_map(|(task, stub)| {
            let fds = task.alive.iter().flat_map(|alive| &alive.fds);
            fds.map(|fd| fd.fd.cast_signed()).chain(stub.agent_fd())
        })
        .collect();
    // What arrives takes the lowest free numbers, in order.
    let mut brought = vec![device, control];
    let arrivals: Vec<i32> = (0..).filter(|number| !taken.contains(number)).take(3).collect();
    let place = arrivals.iter().position(|number| *number == daemon.fd).unwrap_or(2);
    brought.insert(place, writer);
    let number = |file: &OwnedFd| {
        let at = brought.iter().position(|other| std::ptr::eq(*other, file));
        at.and_then(|at| arrivals.get(at).copied()).unwrap_or(-1)
    };
    let mut batch = Batch::new();
    let all: Vec<Arg> = brought.iter().map(|file| batch.fd(file.as_fd())).collect();
    let seat = Seat::of(tasks.get(at), files, daemon, &taken, number(writer));
    seat.take(&mut batch, number(writer));
    let wanted = batch.input(&sys::SetPipe::new(number(control), seat.number()));
    let device = number(device);
    batch.call("ioctl", libc::SYS_ioctl, args![device, sys::AUTOFS_DEV_IOCTL_SETPIPEFD, wanted]);
    seat.leave(&mut batch);
    for file in all {
        batch.call("close", libc::SYS_close, args![file]);
    }
    stubs.0.get_mut(at).ok_or_else(nobody)?.run(step, &batch).map(drop)
}

/// The number that a pipe's end has while it is given to a mount, which goes on to show it.
#[derive(Debug, Clone, Copy)]
enum Seat {
    /// It is there under this number.
    There(i32),
    /// Nothing has this number.
    Free(i32),
    /// Something has it that can be somewhere else for the moment: where, and the flags that it comes back with.
    Taken { number: i32, spare: i32, flags: i32 },
}

impl Seat {
    fn of(
        task: Option<&Task>,
        files: &FilesRestore<'_>,
        daemon: Daemon,
        taken: &BTreeSet<i32>,
        arrival: i32,
    ) -> Self {
        let fds = task.and_then(|task| task.alive.as_ref()).map_or(&[][..], |alive| &alive.fds);
        let own = fds.iter().find(|fd| fd.fd.cast_signed() == daemon.fd);
        match own {
            _ if daemon.fd < 0 => Self::There(arrival),
            Some(own) if pipe::is_writer(files, own.id, daemon.pipe) => Self::There(daemon.fd),
            // Whoever closes a file loses the locks that he has on it.
            Some(own) if files.regular(own.id).is_err() => {
                let is_closed = own.flags & libc::FD_CLOEXEC as u32 != 0;
                let flags = if is_closed { libc::O_CLOEXEC } else { 0 };
                let spare = taken.iter().max().map_or(arrival, |most| *most.max(&arrival)) + 4;
                Self::Taken { number: daemon.fd, spare, flags }
            }
            None if !taken.contains(&daemon.fd) && daemon.fd > arrival => Self::Free(daemon.fd),
            _ => Self::There(arrival),
        }
    }

    fn number(self) -> i32 {
        match self {
            Self::There(number) | Self::Free(number) | Self::Taken { number, .. } => number,
        }
    }

    fn take(self, batch: &mut Batch<'_>, arrival: i32) {
        if let Self::Taken { number, spare, .. } = self {
            batch.call("dup2", libc::SYS_dup2, args![number, spare]);
        }
        if !matches!(self, Self::There(_)) {
            batch.call("dup2", libc::SYS_dup2, args![arrival, self.number()]);
        }
    }

    fn leave(self, batch: &mut Batch<'_>) {
        match self {
            Self::There(_) => {}
            Self::Free(number) => {
                batch.call("close", libc::SYS_close, args![number]);
            }
            Self::Taken { number, spare, flags } => {
                batch.call("dup3", libc::SYS_dup3, args![spare, number, flags]);
                batch.call("close", libc::SYS_close, args![spare]);
            }
        }
    }
}
