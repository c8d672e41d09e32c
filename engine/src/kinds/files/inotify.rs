//! Inotify instances: `anon_inode:inotify`, with a line in fdinfo for each watch.
//!
//! Watches are made again with their numbers, in the order in which they were made, when everything else is done: a
//! restore opens and closes files that are watched, and nobody asked for that. Events that wait to be read cannot be put
//! back; an overflow (`IN_Q_OVERFLOW`) stands in for them, which tells a program that it has missed some.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use proto::catalogue::STASIS_NOTIFY;
use proto::messages::{FdTypes, FileEntry, InotifyFileEntry, InotifyWdEntry, StasisNotifyEntry};

use super::watched::{self, Way};
use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::procfs::fsnotify;
use crate::procfs::link::Link;
use crate::sys::{inotify, socket};

/// Inotify instances.
#[derive(Debug)]
pub struct Inotify;

/// How an instance could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum InotifyError {
    /// The kernel gave a watch another number.
    #[error("watch {wanted} became watch {got}: two of its watches lead to the same file now")]
    OtherNumber {
        /// Its number when it was dumped.
        wanted: u32,
        /// Its number now.
        got: u32,
    },
    /// The queue takes more events than anybody allows.
    #[error("its queue does not overflow after {0} events")]
    NoOverflow(u32),
}

impl Explain for InotifyError {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// Instances whose events were waiting.
#[derive(Debug, Default)]
struct Pending(Vec<StasisNotifyEntry>);

/// Instances without any event when they were looked at: our duplicates.
#[derive(Debug, Default)]
struct Empty(Vec<OwnedFd>);

/// Instances that were made, and what they are to watch.
#[derive(Debug, Default)]
struct Made {
    overflown: Option<BTreeSet<u32>>,
    instances: Vec<Instance>,
}

#[derive(Debug)]
struct Instance {
    fd: OwnedFd,
    /// In the order in which they were made first.
    watches: Vec<(InotifyWdEntry, Way)>,
    overflows: bool,
}

/// Bits of a mask that are the user's: the others say what the kernel knows anyway.
const USERS: u32 = libc::IN_ALL_EVENTS | libc::IN_EXCL_UNLINK | libc::IN_ONESHOT;

impl FileKind for Inotify {
    const NAME: &'static str = "inotify";
    const NOT_SAVED: &'static [&'static str] = &[
        "events that nobody has read yet: an overflow event stands in for them",
        "events that somebody outside of the tree makes of a removed file while a dump reads it, if the tree runs on",
        "numbers of watches that have ended: new watches may get them once more",
        "one-shot watches and IN_EXCL_UNLINK, on kernels before 5.19",
    ];
    const TYPE: FdTypes = FdTypes::Inotify;
    type Image = InotifyFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"inotify")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<InotifyFileEntry>> {
        &mut entry.ify
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<InotifyFileEntry, Problem> {
        // First, because finding what is watched may be an event.
        if socket::queued(fd.dup()?)? > 0 {
            cx.state::<Pending>().0.push(StasisNotifyEntry { id, overflow: Some(true) });
        } else {
            let ours = fd.dup()?.try_clone_to_owned().map_err(SysError::io("fcntl(F_DUPFD_CLOEXEC)"))?;
            cx.state::<Empty>().0.push(ours);
        }
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let mut wd = Vec::new();
        for line in fd.info.values("inotify") {
            let watch = fsnotify::inotify(line).while_trying_to("read what it watches")?;
            let watched = watched::describe(cx, fd.pid, &watch.inode)?;
            wd.push(InotifyWdEntry {
                id: watched.file,
                i_ino: watch.inode.number,
                mask: watch.mask,
                ignored_mask: 0,
                s_dev: watch.inode.device,
                wd: watch.wd,
                f_handle: watched.handle,
            });
        }
        Ok(InotifyFileEntry { id, flags: fd.flags() as u32, fown, wd })
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let pending = std::mem::take(cx.state::<Pending>()).0;
        if pending.is_empty() { Ok(()) } else { images.write(&STASIS_NOTIFY, 0, &pending) }
    }

    fn check(_cx: &FilesRestore<'_>, image: &InotifyFileEntry) -> Result<(), Problem> {
        let mut watches = image.wd.iter();
        watches.try_for_each(|wd| watched::check(wd.s_dev, wd.i_ino, wd.id, &wd.f_handle)).about(object)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &InotifyFileEntry) -> Result<OwnedFd, Problem> {
        if cx.state::<Made>().overflown.is_none() {
            let entries: Vec<StasisNotifyEntry> = if cx.images.has(&STASIS_NOTIFY, 0) {
                cx.images.read(&STASIS_NOTIFY, 0)?
            } else {
                Vec::new()
            };
            let overflown = entries.iter().filter(|entry| entry.overflow()).map(|entry| entry.id);
            cx.state::<Made>().overflown = Some(overflown.collect());
        }
        let fd = inotify::init()?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        let mut watches = Vec::new();
        // The kernel lists the youngest first.
        for wd in image.wd.iter().rev() {
            watches.push((wd.clone(), watched::reach(cx, (wd.s_dev, wd.i_ino), wd.id, &wd.f_handle)?));
        }
        let ours = fd.try_clone().map_err(SysError::io("fcntl(F_DUPFD_CLOEXEC)"))?;
        let made = cx.state::<Made>();
        let overflows = made.overflown.as_ref().is_some_and(|ids| ids.contains(&image.id));
        made.instances.push(Instance { fd: ours, watches, overflows });
        Ok(fd)
    }

    fn settle(cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        std::mem::take(cx.state::<Made>()).instances.iter().try_for_each(Instance::settle).about(object)
    }
}

fn object() -> Object {
    Object::Named { kind: "file", name: "anon_inode:inotify".into() }
}

impl Instance {
    fn settle(&self) -> Result<(), Problem> {
        if self.overflows {
            overflow(self.fd.as_fd()).while_trying_to("let its queue overflow")?;
        }
        for (watch, way) in &self.watches {
            let (path, follow) = way.path();
            let mask = watch.mask & USERS | if follow { 0 } else { libc::IN_DONT_FOLLOW };
            inotify::set_next_wd(self.fd.as_fd(), watch.wd)?;
            let got = inotify::add_watch(self.fd.as_fd(), &path, mask).about(|| Object::Path(path))?;
            if got != watch.wd {
                return Err(Problem::new(InotifyError::OtherNumber { wanted: watch.wd, got }));
            }
        }
        Ok(())
    }
}

/// Takes away the events that we made ourselves by reading what removed files hold: the tree may run on, and nobody asked for
/// them. Where others were waiting, ours stay behind them.
pub(super) fn forget_ours(cx: &mut FilesDump<'_>) -> Result<(), Problem> {
    for fd in std::mem::take(cx.state::<Empty>()).0 {
        let queued = socket::queued(fd.as_fd()).about(object)?;
        let mut buffer = vec![0; usize::try_from(queued).unwrap_or(0)];
        if !buffer.is_empty() {
            nix::unistd::read(&fd, &mut buffer).map_err(SysError::of("read")).about(object)?;
        }
    }
    Ok(())
}

/// Bytes of an event without a name (`struct inotify_event`).
const EVENT: i32 = 16;

/// Leaves an overflow event as the only one in the queue of an instance that watches nothing yet.
///
/// Only a queue that is full overflows: it is filled with events of a file of our own, and emptied again up to the
/// overflow, which is the last.
fn overflow(fd: BorrowedFd<'_>) -> Result<(), Problem> {
    /// How often to look whether the queue is full, and when to give up.
    const AT_ONCE: u32 = 1024;
    const LIMIT: u32 = 1 << 24;
    let noise = memfd_create("stasis", MFdFlags::MFD_CLOEXEC).map_err(SysError::of("memfd_create"))?;
    let path = format!("/proc/self/fd/{}", noise.as_raw_fd());
    let wd = inotify::add_watch(fd, path.as_ref(), libc::IN_MODIFY | libc::IN_ATTRIB)?;
    let (mut made, mut queued) = (0, -1);
    while queued != socket::queued(fd)? {
        queued = socket::queued(fd)?;
        for _ in 0..AT_ONCE {
            // Equal events become one where they follow each other: so they take turns. Reading and writing would tell
            // nothing, since the kernel keeps quiet about files that never had a name.
            nix::unistd::ftruncate(&noise, 0).map_err(SysError::of("ftruncate"))?;
            nix::sys::stat::fchmod(&noise, Mode::S_IRUSR).map_err(SysError::of("fchmod"))?;
        }
        made += 2 * AT_ONCE;
        if made > LIMIT {
            return Err(Problem::new(InotifyError::NoOverflow(made)));
        }
    }
    inotify::rm_watch(fd, wd)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let others = usize::try_from(socket::queued(fd)? - EVENT).unwrap_or(0);
        if others == 0 {
            return Ok(());
        }
        let room = others.min(buffer.len());
        let part = buffer.get_mut(..room).unwrap_or_default();
        nix::unistd::read(fd, part).map_err(SysError::of("read"))?;
    }
}
