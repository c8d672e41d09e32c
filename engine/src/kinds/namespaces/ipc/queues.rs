//! POSIX message queues (mq_overview(7)): names, owners, limits and messages.
//!
//! The kernel has no way to look at a message but to take it out. So a small process of ours takes all of them, and puts them
//! back at once, in the order in which they came, while everybody in the tree is stopped; it does so even if we are killed
//! meanwhile, and only if both are, the messages are lost. Whoever waits to be told of a message (mq_notify(3)) would be told of ours, and is
//! refused.

use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use prost::Message as _;
use proto::catalogue::STASIS_QUEUES;
use proto::messages::{StasisQueueEntry, StasisQueueMessage};

use super::write;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::namespaces::{NamespaceDump, NamespaceRestore};
use crate::mounts::envoy;
use crate::procfs::id_map::{self, IdMaps};
use crate::sys::mount::NewFileSystem;
use crate::sys::mqueue::{self, Attributes};

/// Why a queue cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum QueueRefusal {
    /// Somebody waits for the first message.
    #[error("process {0} waits to be told of a message (mq_notify), which is not supported yet")]
    Notify(i32),
}

impl Explain for QueueRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Notify(_) => Some("have it take that back: mq_notify(3) with no event".into()),
        }
    }
}

/// How messages name a queue.
pub fn object(name: &[u8]) -> Object {
    let name = format!("/{}", String::from_utf8_lossy(name));
    Object::Named { kind: "POSIX message queue", name }
}

/// The root of the file system of queues of the ipc namespace that we are in, mounted nowhere.
pub fn file_system() -> Result<OwnedFd, SysError> {
    let queues = NewFileSystem::open(c"mqueue")?;
    queues.create()?;
    queues.mount()
}

/// All queues there, open for looking at them, with their names.
fn all() -> Result<Vec<(Vec<u8>, OwnedFd)>, Problem> {
    let root = file_system().while_trying_to("look at its POSIX message queues")?;
    let names = std::fs::read_dir(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let names = names.map_err(SysError::io("opendir(mqueue)"))?.flatten();
    let mut names: Vec<Vec<u8>> = names.map(|name| name.file_name().into_vec()).collect();
    names.sort_unstable();
    let open = |name: Vec<u8>| {
        let path = CString::new(name.as_slice()).unwrap_or_default();
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let queue = openat(&root, path.as_c_str(), flags, Mode::empty()).map_err(SysError::of("open"));
        Ok((name.clone(), queue.about(|| object(&name))?))
    };
    names.into_iter().map(open).collect()
}

/// Refuses those that somebody waits for.
pub(super) fn look(problems: &mut Vec<Problem>) {
    match all() {
        Ok(queues) => problems.extend(queues.into_iter().filter_map(|(name, queue)| {
            let refusal = QueueRefusal::Notify(notified(queue)?);
            Some(Problem::new(refusal).object(object(&name)))
        })),
        // A kernel without such queues.
        Err(problem) => log::debug!("no POSIX message queues: {}", problem.cause),
    }
}

/// Who waits to be told of a message. The file of a queue says: `QSIZE:0 NOTIFY:0 SIGNO:0 NOTIFY_PID:0`.
pub fn notified(queue: OwnedFd) -> Option<i32> {
    let mut text = String::new();
    std::fs::File::from(queue).read_to_string(&mut text).ok()?;
    let pid = text.split_whitespace().find_map(|word| word.strip_prefix("NOTIFY_PID:"))?;
    pid.parse().ok().filter(|pid| *pid != 0)
}

/// Describes a queue, with its messages.
pub fn describe(name: &[u8], queue: BorrowedFd<'_>, ids: &IdMaps) -> Result<StasisQueueEntry, Problem> {
    let stat = fstat(queue).map_err(SysError::of("fstat"))?;
    let attributes = mqueue::attributes(queue)?;
    let waiting = if attributes.waiting == 0 { Vec::new() } else { copy(queue, attributes)? };
    Ok(StasisQueueEntry {
        name: name.to_vec(),
        mode: stat.st_mode & 0o7777,
        uid: id_map::inside(&ids.uids, stat.st_uid),
        gid: id_map::inside(&ids.gids, stat.st_gid),
        messages: attributes.messages,
        size: attributes.size,
        waiting,
    })
}

/// Has a process of ours take all messages and put them back.
fn copy(queue: BorrowedFd<'_>, attributes: Attributes) -> Result<Vec<StasisQueueMessage>, Problem> {
    let told = envoy::fork(|| {
        let mut all = StasisQueueEntry::default();
        let mut buffer = vec![0; usize::try_from(attributes.size).unwrap_or(0)];
        let taken = loop {
            match mqueue::receive(queue, &mut buffer) {
                Ok((length, priority)) => {
                    let data = buffer.get(..length).unwrap_or_default().to_vec();
                    all.waiting.push(StasisQueueMessage { priority, data });
                }
                Err(SysError { errno: Errno::EAGAIN | Errno::ETIMEDOUT, .. }) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        let put = put(queue, &all.waiting);
        taken?;
        put?;
        Ok(all.encode_to_vec())
    });
    let told = told.while_trying_to("copy its messages")?;
    StasisQueueEntry::decode(told.as_slice())
        .map(|all| all.waiting)
        .map_err(|_damaged| Problem::new(SysError { call: "copy its messages", errno: Errno::EBADMSG }))
}

/// Puts messages into a queue, in the order in which they are to be received.
fn put(queue: BorrowedFd<'_>, messages: &[StasisQueueMessage]) -> Result<(), SysError> {
    /// Somebody outside of the tree may have filled the queue; he had to wait for room before.
    const PATIENCE: Duration = Duration::from_secs(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut messages = messages.iter();
    messages.try_for_each(|message| mqueue::send(queue, &message.data, message.priority, now + PATIENCE))
}

/// Writes all queues of the namespace.
pub(super) fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let queues = all().unwrap_or_default();
    let entries = queues
        .iter()
        .map(|(name, queue)| describe(name, queue.as_fd(), &cx.options.inside.ids).about(|| object(name)));
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    if entries.is_empty() { Ok(()) } else { images.write(&STASIS_QUEUES, cx.id.into(), &entries) }
}

/// Makes all queues again. The limits of the namespace are set afterwards: they may have been lowered since.
pub(super) fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
    let Some(image) = Some(&STASIS_QUEUES).filter(|image| cx.images.has(image, cx.id.into())) else {
        return Ok(());
    };
    let entries: Vec<StasisQueueEntry> = cx.images.read(image, cx.id.into())?;
    let most = |of: fn(&StasisQueueEntry) -> u64| entries.iter().map(of).max().unwrap_or(0);
    write("fs/mqueue/queues_max", entries.len().max(256))?;
    write("fs/mqueue/msg_max", most(|entry| entry.messages).max(10))?;
    write("fs/mqueue/msgsize_max", most(|entry| entry.size).max(8192))?;
    entries.iter().try_for_each(|entry| make(entry).about(|| object(&entry.name)))
}

fn make(entry: &StasisQueueEntry) -> Result<(), Problem> {
    let name = CString::new(entry.name.as_slice()).unwrap_or_default();
    let queue = create(&name, entry)?;
    fill(&queue, entry, &IdMaps::default())
}

/// Makes an empty queue with the limits of one that was.
pub fn create(name: &CStr, entry: &StasisQueueEntry) -> Result<OwnedFd, SysError> {
    let attributes = Attributes { messages: entry.messages, size: entry.size, waiting: 0 };
    mqueue::create(name, 0, attributes)
}

/// Puts messages into an empty queue, and sets owner and mode; its ids are those of a user namespace with these maps.
pub fn fill(queue: &OwnedFd, entry: &StasisQueueEntry, ids: &IdMaps) -> Result<(), Problem> {
    put(queue.as_fd(), &entry.waiting).while_trying_to("put its messages into the queue")?;
    let (uid, gid) = (id_map::outside(&ids.uids, entry.uid), id_map::outside(&ids.gids, entry.gid));
    fchown(queue, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(SysError::of("fchown"))?;
    fchmod(queue, Mode::from_bits_retain(entry.mode)).map_err(SysError::of("fchmod"))?;
    Ok(())
}
