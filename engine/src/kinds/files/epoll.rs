//! Event polls: `anon_inode:[eventpoll]`, with one `tfd` line in fdinfo for each file that is watched.
//!
//! A watch belongs to a file and the number it had in the table of the task that added it. The number may be closed or
//! used for something else by now while the watched file lives on under another number, or in another task; `kcmp(2)`
//! tells. Then the file gets its old number for a moment while the watch is made again. A file that no task of the tree
//! has any more is refused.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll as NixEpoll, EpollCreateFlags};
use proto::messages::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, InTask, set_common};
use crate::args;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::procfs::fdinfo;
use crate::procfs::link::Link;
use crate::sys::{pidfd, process};
use crate::tracee::batch::{Arg, Batch};

/// Event polls.
#[derive(Debug)]
pub struct Epoll;

/// Why an event poll cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum EpollRefusal {
    /// The number it knows a file by is another file's, or nobody's.
    #[error("it watches a file that was fd {0}, which no task of the tree has any more")]
    NumberReused(i32),
}

impl Explain for EpollRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("remove the file from the epoll (EPOLL_CTL_DEL) before closing its descriptor".into())
    }
}

impl FileKind for Epoll {
    const NAME: &'static str = "epoll";
    const NOT_SAVED: &'static [&'static str] = &[
        "edges that were reported already (they are reported once more)",
        "busy-poll parameters",
        "that a one-shot watch has fired: it reports errors and hang-ups again",
    ];
    const TYPE: FdTypes = FdTypes::Eventpoll;
    type Image = EventpollFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"eventpoll")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<EventpollFileEntry>> {
        &mut entry.epfd
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<EventpollFileEntry, Problem> {
        let watches = fdinfo::watches(&fd.info).while_trying_to("read what it watches")?;
        for (at, watch) in watches.iter().enumerate() {
            // Several files may be watched under one number, one after the other.
            let before = watches.iter().take(at).filter(|other| other.fd == watch.fd).count() as u32;
            let moved = Moved { epoll: (fd.pid, fd.fd), id, at, watch: *watch, before };
            if !moved.is((fd.pid, watch.fd)).while_trying_to("find the files it watches")? {
                cx.state::<AllMoved>().0.push((moved, fd.object()));
            }
        }
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let tfd = watches.iter().map(describe).collect();
        Ok(EventpollFileEntry { id, flags: fd.flags() as u32, fown, tfd })
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        for (moved, object) in std::mem::take(&mut cx.state::<AllMoved>().0) {
            let found = moved.find(cx).while_trying_to("find the files it watches");
            match found.map_err(|p| p.object(object)) {
                Ok(file) => {
                    let epoll = cx.entry_mut(moved.id).and_then(|entry| entry.epfd.as_mut());
                    if let Some(watch) = epoll.and_then(|epoll| epoll.tfd.get_mut(moved.at)) {
                        watch.id = file;
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
    }

    fn restore(_cx: &mut FilesRestore<'_>, image: &EventpollFileEntry) -> Result<OwnedFd, Problem> {
        let epoll = NixEpoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(SysError::of("epoll_create1"))?;
        set_common(epoll.0.as_fd(), image.flags, Some(&image.fown))?;
        Ok(epoll.0)
    }

    fn connect(
        cx: &mut FilesRestore<'_>,
        tasks: &mut dyn InTask,
        image: &EventpollFileEntry,
    ) -> Result<(), Problem> {
        /// Watches in one message to the task.
        const AT_ONCE: usize = 64;
        let (moved, in_place): (Vec<_>, Vec<_>) = image.tfd.iter().copied().partition(|watch| watch.id != 0);
        for watches in in_place.chunks(AT_ONCE) {
            tasks.run_where(image.id, &mut |epoll, batch| {
                for watch in watches {
                    add_watch(batch, epoll, watch);
                }
            })?;
        }
        for watch in &moved {
            connect_moved(cx, tasks, image.id, watch)?;
        }
        Ok(())
    }
}

/// A watch whose number is not the watched file any more.
#[derive(Debug)]
struct Moved {
    /// The epoll, by a task and its number there …
    epoll: (i32, i32),
    /// … and its id.
    id: u32,
    /// Which of its watches.
    at: usize,
    watch: fdinfo::Watch,
    /// How many of its watches come before under the same number.
    before: u32,
}

#[derive(Debug, Default)]
struct AllMoved(Vec<(Moved, Object)>);

impl Moved {
    /// Whether a task's descriptor is the watched file.
    fn is(&self, fd: (i32, i32)) -> Result<bool, SysError> {
        match process::kcmp_watched(fd, self.epoll, (self.watch.fd, self.before)) {
            Err(SysError { errno: Errno::EBADF | Errno::ENOENT, .. }) => Ok(false),
            answer => answer,
        }
    }

    /// The id of the watched file, which some task of the tree has.
    fn find(&self, cx: &mut FilesDump<'_>) -> Result<u32, Problem> {
        let tasks: Vec<i32> = cx.tasks().iter().map(|task| task.name.host_pid).collect();
        for pid in tasks {
            for fd in super::list(pid) {
                let stat = nix::sys::stat::stat(format!("/proc/{pid}/fd/{fd}").as_str());
                if stat.is_ok_and(|stat| stat.st_ino == self.watch.inode) && self.is((pid, fd))? {
                    let pidfd = pidfd::open(pid)?;
                    if let Some(entry) = cx.dump_fd(pid, pidfd.as_fd(), fd)? {
                        return Ok(entry.id);
                    }
                }
            }
        }
        Err(Problem::new(EpollRefusal::NumberReused(self.watch.fd)))
    }
}

fn add_watch(batch: &mut Batch<'_>, epoll: i32, watch: &EventpollTfdEntry) {
    let event = batch.input(&event(watch));
    let add = args![epoll, libc::EPOLL_CTL_ADD, watch.tfd, event];
    batch.call("epoll_ctl(EPOLL_CTL_ADD)", libc::SYS_epoll_ctl, add);
}

/// Makes a watch under a number that the file has for this moment only; whatever has the number now stays open meanwhile
/// under another.
fn connect_moved(
    cx: &mut FilesRestore<'_>,
    tasks: &mut dyn InTask,
    id: u32,
    watch: &EventpollTfdEntry,
) -> Result<(), Problem> {
    let number = watch.tfd;
    let mut flags = None;
    let replies = tasks.run_where(id, &mut |_, batch| {
        flags = Some(batch.try_call("fcntl(F_GETFD)", libc::SYS_fcntl, args![number, libc::F_GETFD]));
    })?;
    let taken = flags.and_then(|flags| replies.result(flags).ok());
    let file = cx.open(watch.id)?;
    tasks.run_where(id, &mut |epoll, batch| {
        let file = batch.fd(file);
        let aside =
            args![if taken.is_some() { Arg::from(number) } else { file }, libc::F_DUPFD_CLOEXEC, number + 1];
        let aside = Arg::Result(batch.call("fcntl(F_DUPFD_CLOEXEC)", libc::SYS_fcntl, aside));
        if taken.is_some() {
            batch.call("dup2", libc::SYS_dup2, args![file, number]);
            batch.call("close", libc::SYS_close, args![file]);
        } else {
            // The file may have arrived under the very number.
            batch.call("close", libc::SYS_close, args![file]);
            batch.call("dup2", libc::SYS_dup2, args![aside, number]);
        }
        add_watch(batch, epoll, watch);
        match taken {
            Some(flags) => {
                let flags = if flags & i64::from(libc::FD_CLOEXEC) != 0 { libc::O_CLOEXEC } else { 0 };
                batch.call("dup3", libc::SYS_dup3, args![aside, number, flags]);
            }
            None => {
                batch.call("close", libc::SYS_close, args![number]);
            }
        }
        batch.call("close", libc::SYS_close, args![aside]);
    })?;
    Ok(())
}

/// `struct epoll_event`, which has no padding on this architecture (`include/uapi/linux/eventpoll.h`).
fn event(watch: &EventpollTfdEntry) -> [u8; 12] {
    let mut event = [0; 12];
    let (events, data) = event.split_at_mut(4);
    events.copy_from_slice(&watch.events.to_le_bytes());
    data.copy_from_slice(&watch.data.to_le_bytes());
    event
}

fn describe(watch: &fdinfo::Watch) -> EventpollTfdEntry {
    EventpollTfdEntry {
        id: 0,
        tfd: watch.fd as u32,
        events: watch.events,
        data: watch.data,
        dev: Some(watch.device),
        inode: Some(watch.inode),
        pos: Some(watch.position),
    }
}
