//! Descriptors of POSIX message queues (mq_open(3)).
//!
//! A link in `/proc/PID/fd` has the name only, on a file system that is mounted nowhere; which ipc namespace that belongs to, its
//! device number tells. The queues themselves are kept with their namespace (`kinds/namespaces/ipc/queues.rs`); those of one that
//! the tree has in common with others are there still. One whose name was removed is kept with its descriptors, and has a name for
//! as long as it takes to open it for all of them. CRIU knows no such files: in `files.img` they are of the type that it leaves to
//! others, and the rest is in a file of our own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{FsType, fstatfs};
use proto::catalogue::STASIS_QUEUE_FILES;
use proto::messages::{ExtFileEntry, FdTypes, FileEntry, StasisQueueEntry, StasisQueueFileEntry};

use super::{FdFacts, FileKind, FileRefusal, FilesDump, FilesRestore, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::kinds::namespaces::ipc::queues::{self, QueueRefusal, file_system, object};
use crate::procfs::link::{Link, NamespaceType};
use crate::sys::mqueue;
use crate::task_spaces::TaskSpaces;

/// Descriptors of POSIX message queues.
#[derive(Debug)]
pub struct PosixQueue;

/// Why one cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum PosixQueueRefusal {
    /// Of a namespace that nobody is in.
    #[error("the queue is of an ipc namespace that no process of the tree is in")]
    Elsewhere,
    /// Nobody has it.
    #[error("there is no such queue, and it is not in the images")]
    Missing,
}

impl Explain for PosixQueueRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Missing => Some("make it as it was when the process was dumped".into()),
            Self::Elsewhere => Some("close it first".into()),
        }
    }
}

/// `MQUEUE_MAGIC` of ipc/mqueue.c.
const MAGIC: FsType = FsType(0x1980_0202);
/// `FILENT_SIZE` of ipc/mqueue.c: the size that every queue shows.
const SIZE: i64 = 80;

/// Whether a descriptor is of a queue, on the file system that the kernel itself has mounted.
pub(super) fn is_queue(fd: &FdFacts<'_>) -> bool {
    let is_file = fd.file_type() == libc::S_IFREG && fd.stat.st_size == SIZE && !fd.is_path_only();
    let is_top = fd.link.iter().rposition(|byte| *byte == b'/') == Some(0);
    is_file && is_top && fd.dup().is_ok_and(|dup| fstatfs(dup).is_ok_and(|fs| fs.filesystem_type() == MAGIC))
}

/// A descriptor of a tree that is being dumped.
#[derive(Debug)]
struct Found {
    entry: StasisQueueFileEntry,
    /// Device and inode number.
    inode: (u64, u64),
    is_removed: bool,
    /// The link in `/proc` that leads to it.
    reach: String,
    /// Who waits to be told of a message.
    notified: Option<i32>,
    object: Object,
}

#[derive(Debug, Default)]
struct Dumped(Vec<Found>);

/// Ids of ipc namespaces beside the root's, by the device numbers of their queues' file systems; that of the root has none.
fn devices(cx: &mut FilesDump<'_>) -> Result<BTreeMap<u64, Option<u32>>, Problem> {
    let device = || -> Result<u64, SysError> {
        let root = file_system()?;
        Ok(fstat(&root).map_err(SysError::of("fstat"))?.st_dev)
    };
    let mut all = BTreeMap::from([(device()?, None)]);
    let spaces = cx.state::<TaskSpaces>();
    for id in spaces.all_ipc() {
        let _there = spaces.visit(NamespaceType::Ipc, id)?;
        all.insert(device()?, Some(id));
    }
    Ok(all)
}

/// Opens a queue by the link that leads to it, to take messages out and put them back.
fn open_by_link(reach: &str) -> Result<OwnedFd, SysError> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    nix::fcntl::open(reach, flags, Mode::empty()).map_err(SysError::of("open"))
}

/// What the images say of descriptors, by the ids of their files.
#[derive(Debug, Default)]
pub(super) struct Saved(HashMap<u32, StasisQueueFileEntry>);

impl Saved {
    /// Reads it.
    pub(super) fn read(images: &Images) -> Result<Self, Problem> {
        let image = &STASIS_QUEUE_FILES;
        let all: Vec<StasisQueueFileEntry> =
            if images.has(image, 0) { images.read(image, 0)? } else { Vec::new() };
        Ok(Self(all.into_iter().map(|entry| (entry.id, entry)).collect()))
    }

    fn entry(&self, id: u32) -> Result<&StasisQueueFileEntry, Problem> {
        self.0.get(&id).ok_or_else(|| Problem::new(FileRefusal::NoSuchId(id)))
    }

    /// A queue that has no name any more, and all descriptors of it.
    fn removed(&self, number: u32) -> Result<(&StasisQueueEntry, Vec<&StasisQueueFileEntry>), Problem> {
        let users: Vec<_> = self.0.values().filter(|entry| entry.removed == Some(number)).collect();
        let queue = users.iter().find_map(|entry| entry.queue.as_ref());
        let missing = || invalid(&STASIS_QUEUE_FILES, 0, "a queue without a name is not there");
        Ok((queue.ok_or_else(missing)?, users))
    }
}

fn all_saved<'a>(cx: &'a FilesRestore<'_>) -> Result<&'a Saved, Problem> {
    let missing = || invalid(&STASIS_QUEUE_FILES, 0, "it was not read");
    cx.peek::<Saved>().ok_or_else(missing)
}

fn saved<'a>(cx: &'a FilesRestore<'_>, id: u32) -> Result<&'a StasisQueueFileEntry, Problem> {
    all_saved(cx)?.entry(id)
}

/// Opens a queue of the ipc namespace that we are in as it was open.
fn open(name: &CString, entry: &StasisQueueFileEntry) -> Result<OwnedFd, SysError> {
    mqueue::open(name, entry.flags.cast_signed() & (libc::O_ACCMODE | libc::O_NONBLOCK))
}

/// Queues that were opened while they had names.
#[derive(Debug, Default)]
struct Opened(HashMap<u32, OwnedFd>);

/// Makes a queue under a name that nobody has, opens it for all of its users, and takes the name away again.
fn make_removed(
    cx: &FilesRestore<'_>,
    queue: &StasisQueueEntry,
    users: &[&StasisQueueFileEntry],
) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    /// Names that are tried: its own, and its own with a number.
    const MOST: u32 = 1000;
    for number in 0..MOST {
        let mut name = queue.name.clone();
        if number > 0 {
            name.extend_from_slice(format!(".{number}").as_bytes());
        }
        let name = CString::new(name).unwrap_or_default();
        let made = match queues::create(&name, queue) {
            Err(SysError { errno: Errno::EEXIST, .. }) => continue,
            made => made?,
        };
        let opened = users.iter().map(|user| Ok((user.id, open(&name, user)?)));
        let opened: Result<Vec<_>, SysError> = opened.collect();
        mqueue::unlink(&name)?;
        queues::fill(&made, queue, &cx.options.inside.ids)?;
        return Ok(opened?);
    }
    Err(Problem::new(SysError { call: "mq_open", errno: Errno::EEXIST }))
}

impl FileKind for PosixQueue {
    const NAME: &'static str = "posix-queue";
    const NOT_SAVED: &'static [&'static str] =
        &["the name that a removed queue shows, if another queue has it at restore: it gets a number"];
    const TYPE: FdTypes = FdTypes::Ext;
    type Image = ExtFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        is_queue(fd)
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<ExtFileEntry>> {
        &mut entry.ext
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<ExtFileEntry, Problem> {
        let (Link::Path(path) | Link::Deleted(path)) = fd.link() else {
            return Err(Problem::new(FileRefusal::NoKind));
        };
        let name = path.strip_prefix(b"/").unwrap_or(path).to_vec();
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let is_removed = fd.stat.st_nlink == 0;
        let reach = format!("/proc/{}/fd/{}", fd.pid, fd.fd);
        let notified = queues::notified(open_by_link(&reach)?);
        let object = object(&name);
        let flags = fd.flags().cast_unsigned();
        let entry = StasisQueueFileEntry { id, name, flags, ns_id: None, removed: None, queue: None };
        let inode = (fd.stat.st_dev, fd.stat.st_ino);
        cx.state::<Dumped>().0.push(Found { entry, inode, is_removed, reach, notified, object });
        Ok(ExtFileEntry { id, fown })
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        let mut found = std::mem::take(&mut cx.state::<Dumped>().0);
        if found.is_empty() {
            return;
        }
        let devices = match devices(cx).while_trying_to("look at its POSIX message queues") {
            Ok(devices) => devices,
            Err(problem) => return problems.push(problem),
        };
        let tree: BTreeSet<i32> = cx.tasks().iter().map(|task| task.name.host_pid).collect();
        let is_own = cx.options.inside.has(NamespaceType::Ipc);
        for found in &mut found {
            // Of namespaces that are kept, all queues are looked at anyway.
            if (found.is_removed || !is_own)
                && let Some(pid) = found.notified.filter(|pid| found.is_removed || tree.contains(pid))
            {
                problems.push(Problem::new(QueueRefusal::Notify(pid)).object(found.object.clone()));
            }
            if let Some(id) = devices.get(&found.inode.0) {
                found.entry.ns_id = *id;
            } else {
                let problem = Problem::new(PosixQueueRefusal::Elsewhere);
                problems.push(problem.object(found.object.clone()));
            }
        }
        cx.state::<Dumped>().0 = found;
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let mut entries: Vec<StasisQueueFileEntry> = Vec::new();
        let mut numbers: HashMap<(u64, u64), u32> = HashMap::new();
        for Found { mut entry, inode, is_removed, reach, object, .. } in
            std::mem::take(&mut cx.state::<Dumped>().0)
        {
            if is_removed {
                let next = numbers.len() as u32 + 1;
                let number = *numbers.entry(inode).or_insert(next);
                entry.removed = Some(number);
                if number == next {
                    let ids = &cx.options.inside.ids;
                    let queue = open_by_link(&reach).map_err(Problem::new);
                    let queue = queue.and_then(|queue| queues::describe(&entry.name, queue.as_fd(), ids));
                    entry.queue = Some(queue.about(|| object)?);
                }
            }
            entries.push(entry);
        }
        if entries.is_empty() { Ok(()) } else { images.write(&STASIS_QUEUE_FILES, 0, &entries) }
    }

    fn check(cx: &FilesRestore<'_>, image: &ExtFileEntry) -> Result<(), Problem> {
        let entry = saved(cx, image.id)?;
        if let Some(number) = entry.removed {
            return all_saved(cx)?.removed(number).map(drop);
        }
        // Those of namespaces of the tree are made with them.
        if entry.ns_id.is_some() {
            return Ok(());
        }
        let name = CString::new(entry.name.as_slice()).unwrap_or_default();
        let opened = mqueue::open(&name, libc::O_RDONLY | libc::O_NONBLOCK);
        let missing = |_error| Problem::new(PosixQueueRefusal::Missing).object(object(&entry.name));
        opened.map(drop).map_err(missing)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &ExtFileEntry) -> Result<OwnedFd, Problem> {
        if !cx.state::<Opened>().0.contains_key(&image.id) {
            let opened = open_all(cx, saved(cx, image.id)?)?;
            cx.state::<Opened>().0.extend(opened);
        }
        let missing = || Problem::new(FileRefusal::NoSuchId(image.id));
        let queue = cx.state::<Opened>().0.remove(&image.id).ok_or_else(missing)?;
        set_common(queue.as_fd(), saved(cx, image.id)?.flags, Some(&image.fown))?;
        Ok(queue)
    }
}

/// Opens the queue of a descriptor, and with one that was removed those of all others.
fn open_all(cx: &FilesRestore<'_>, entry: &StasisQueueFileEntry) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    let _there = cx.members.visit(NamespaceType::Ipc, entry.ns_id)?;
    let Some(number) = entry.removed else {
        let name = CString::new(entry.name.as_slice()).unwrap_or_default();
        return Ok(vec![(entry.id, open(&name, entry).about(|| object(&entry.name))?)]);
    };
    let (queue, users) = all_saved(cx)?.removed(number)?;
    let made = make_removed(cx, queue, &users).about(|| object(&queue.name));
    made.while_trying_to("make a queue without a name again")
}
