//! Descriptors of POSIX message queues (mq_open(3)).
//!
//! A link in `/proc/PID/fd` has the name only, on a file system that is mounted nowhere. The queues themselves are kept with
//! their ipc namespace (`kinds/namespaces/ipc/queues.rs`); those of one that the tree has in common with others are there still. CRIU
//! knows no such files: in `files.img` they are of the type that it leaves to others, and the name is in a file of our own.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use proto::catalogue::STASIS_QUEUE_FILES;
use proto::messages::{ExtFileEntry, FdTypes, FileEntry, StasisQueueFileEntry};

use super::{FdFacts, FileKind, FileRefusal, FilesDump, FilesRestore, set_common};
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::namespaces::ipc::queues::{file_system, object};
use crate::procfs::link::{Link, NamespaceType};
use crate::sys::mqueue;
use crate::task_spaces::TaskSpaces;

/// Descriptors of POSIX message queues.
#[derive(Debug)]
pub struct PosixQueue;

/// Why one cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum PosixQueueRefusal {
    /// Its name is gone, or it is another's.
    #[error("the queue has no name any more, which is not supported yet")]
    Removed,
    /// Of another namespace than its task is in.
    #[error("the queue is of another ipc namespace than the process is in, which is not supported yet")]
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
            Self::Removed | Self::Elsewhere => Some("close it first".into()),
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

/// What is known of descriptors.
#[derive(Debug, Default)]
struct Dumped(Vec<StasisQueueFileEntry>);

fn entry(cx: &FilesRestore<'_>, id: u32) -> Result<StasisQueueFileEntry, Problem> {
    let none = || Problem::new(FileRefusal::NoSuchId(id));
    if !cx.images.has(&STASIS_QUEUE_FILES, 0) {
        return Err(none());
    }
    let entries: Vec<StasisQueueFileEntry> = cx.images.read(&STASIS_QUEUE_FILES, 0)?;
    entries.into_iter().find(|entry| entry.id == id).ok_or_else(none)
}

impl FileKind for PosixQueue {
    const NAME: &'static str = "posix-queue";
    const TYPE: FdTypes = FdTypes::Ext;
    type Image = ExtFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        is_queue(fd)
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<ExtFileEntry>> {
        &mut entry.ext
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<ExtFileEntry, Problem> {
        let Link::Path([b'/', name @ ..]) = fd.link() else {
            return Err(Problem::new(PosixQueueRefusal::Removed));
        };
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let spaces = cx.state::<TaskSpaces>();
        let ns_id = spaces.ipc_of(fd.pid);
        let there = ns_id.map(|id| spaces.visit(NamespaceType::Ipc, id)).transpose()?;
        let root = file_system().while_trying_to("look at its POSIX message queues")?;
        drop(there);
        if fstat(&root).map_err(SysError::of("fstat"))?.st_dev != fd.stat.st_dev {
            return Err(Problem::new(PosixQueueRefusal::Elsewhere));
        }
        let (name, flags) = (name.to_vec(), fd.flags().cast_unsigned());
        cx.state::<Dumped>().0.push(StasisQueueFileEntry { id, name, flags, ns_id });
        Ok(ExtFileEntry { id, fown })
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let entries = std::mem::take(&mut cx.state::<Dumped>().0);
        if entries.is_empty() { Ok(()) } else { images.write(&STASIS_QUEUE_FILES, 0, &entries) }
    }

    fn check(cx: &FilesRestore<'_>, image: &ExtFileEntry) -> Result<(), Problem> {
        let entry = entry(cx, image.id)?;
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
        let entry = entry(cx, image.id)?;
        let _there = cx.members.visit(NamespaceType::Ipc, entry.ns_id)?;
        let name = CString::new(entry.name.as_slice()).unwrap_or_default();
        let access = entry.flags.cast_signed() & (libc::O_ACCMODE | libc::O_NONBLOCK);
        let queue = mqueue::open(&name, access).about(|| object(&entry.name))?;
        set_common(queue.as_fd(), entry.flags, Some(&image.fown))?;
        Ok(queue)
    }
}
