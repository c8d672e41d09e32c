//! Event polls: `anon_inode:[eventpoll]`, with one `tfd` line in fdinfo for each file that is watched.
//!
//! A watch belongs to a file and the number it had in the table of the task that added it. The number may be closed or
//! used for something else by now while the watched file lives on elsewhere; such a watch cannot be made again by
//! number, and is refused. `kcmp(2)` tells whether the number still is the watched file.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll as NixEpoll, EpollCreateFlags};
use proto::messages::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, InTask, set_common};
use crate::args;
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::procfs::fdinfo;
use crate::procfs::link::Link;
use crate::sys::process;

/// Event polls.
#[derive(Debug)]
pub struct Epoll;

/// Why an event poll cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum EpollRefusal {
    /// The number it knows a file by is another file's, or nobody's.
    #[error("it watches a file that was fd {0}, which has been closed or replaced since")]
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

    fn member(entry: &mut FileEntry) -> &mut Option<EventpollFileEntry> {
        &mut entry.epfd
    }

    fn dump(_cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<EventpollFileEntry, Problem> {
        let watches = fdinfo::watches(&fd.info).while_trying_to("read what it watches")?;
        for (at, watch) in watches.iter().enumerate() {
            // Several files may be watched under one number, one after the other.
            let before = watches.iter().take(at).filter(|other| other.fd == watch.fd).count() as u32;
            let same = process::kcmp_watched((fd.pid, watch.fd), (fd.pid, fd.fd), (watch.fd, before));
            match same {
                Ok(true) => {}
                Ok(false) | Err(SysError { errno: Errno::EBADF | Errno::ENOENT, .. }) => {
                    return Err(Problem::new(EpollRefusal::NumberReused(watch.fd)));
                }
                Err(e) => return Err(Problem::new(e).step("find the files it watches")),
            }
        }
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let tfd = watches.iter().map(describe).collect();
        Ok(EventpollFileEntry { id, flags: fd.flags() as u32, fown, tfd })
    }

    fn restore(_cx: &mut FilesRestore<'_>, image: &EventpollFileEntry) -> Result<OwnedFd, Problem> {
        let epoll = NixEpoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(SysError::of("epoll_create1"))?;
        set_common(epoll.0.as_fd(), image.flags, Some(&image.fown))?;
        Ok(epoll.0)
    }

    fn connect(
        _cx: &mut FilesRestore<'_>,
        tasks: &mut dyn InTask,
        image: &EventpollFileEntry,
    ) -> Result<(), Problem> {
        /// Watches in one message to the task.
        const AT_ONCE: usize = 64;
        for watches in image.tfd.chunks(AT_ONCE) {
            tasks.run_where(image.id, &mut |epoll, batch| {
                for watch in watches {
                    let event = batch.input(&event(watch));
                    let add = args![epoll, libc::EPOLL_CTL_ADD, watch.tfd, event];
                    batch.call("epoll_ctl(EPOLL_CTL_ADD)", libc::SYS_epoll_ctl, add);
                }
            })?;
        }
        Ok(())
    }
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
