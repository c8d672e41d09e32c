//! POSIX message queues keep names, owners, limits and messages, and descriptors of them their flags.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const JOBS: &CStr = c"/zdtm-mqueue";
const OTHER: &CStr = c"/zdtm-mqueue-other";

fn open(name: &CStr, flags: i32, limits: Option<(i64, i64)>) -> Result<OwnedFd, Failure> {
    // SAFETY: plain numbers, all of which may be zero.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    (attributes.mq_maxmsg, attributes.mq_msgsize) = limits.unwrap_or((10, 8192));
    // SAFETY: the name ends in a zero byte, and the attributes live during the call.
    let fd = Errno::result(unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, &raw const attributes) })?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn remove(name: &CStr) -> Verdict {
    // SAFETY: the name ends in a zero byte.
    Errno::result(unsafe { libc::mq_unlink(name.as_ptr()) })?;
    Ok(())
}

/// Flags, limits, and how many messages there are.
fn attributes(queue: &OwnedFd) -> Result<[i64; 4], Failure> {
    // SAFETY: plain numbers, all of which may be zero.
    let mut found: libc::mq_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one structure.
    Errno::result(unsafe { libc::mq_getattr(queue.as_raw_fd(), &raw mut found) })?;
    Ok([found.mq_flags, found.mq_maxmsg, found.mq_msgsize, found.mq_curmsgs])
}

fn send(queue: &OwnedFd, text: &str, priority: u32) -> Verdict {
    // SAFETY: the kernel reads as many bytes as the text has.
    let sent = unsafe { libc::mq_send(queue.as_raw_fd(), text.as_ptr().cast(), text.len(), priority) };
    Errno::result(sent)?;
    Ok(())
}

fn receive(queue: &OwnedFd) -> Result<(String, u32), Failure> {
    let (mut buffer, mut priority) = ([0_u8; 8192], 0);
    let (fd, start) = (queue.as_raw_fd(), buffer.as_mut_ptr());
    // SAFETY: the kernel writes to the buffer and the priority.
    let got = unsafe { libc::mq_receive(fd, start.cast(), buffer.len(), &raw mut priority) };
    let length = Errno::result(got)? as usize;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), priority))
}

fn owner(queue: &OwnedFd) -> Result<[u32; 3], Failure> {
    let stat = fstat(queue)?;
    Ok([stat.st_uid, stat.st_gid, stat.st_mode & 0o7777])
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    for name in [JOBS, OTHER] {
        // From a run that failed.
        let _not_there = remove(name);
    }
    let make = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    let jobs = open(JOBS, make | libc::O_NONBLOCK, Some((5, 100)))?;
    let waits = open(JOBS, libc::O_RDONLY, None)?;
    let other = open(OTHER, make, Some((3, 8192)))?;
    for (text, priority) in [("later", 1), ("soon", 9), ("soon, too", 9), ("", 0)] {
        send(&jobs, text, priority)?;
    }
    send(&other, &"x".repeat(8192), 4)?;
    nix::unistd::fchown(&jobs, Some(12.into()), Some(34.into()))?;
    fchmod(&jobs, Mode::from_bits_retain(0o640))?;
    let before = (owner(&jobs)?, owner(&other)?, attributes(&jobs)?, attributes(&waits)?);
    ensure_eq!(before.2, [i64::from(libc::O_NONBLOCK), 5, 100, 4], "attributes before the dump");
    drop(other);
    cx.barrier()?;
    let other = open(OTHER, libc::O_RDWR | libc::O_NONBLOCK, None)?;
    let after = (owner(&jobs)?, owner(&other)?, attributes(&jobs)?, attributes(&waits)?);
    ensure_eq!(after, before, "owners, limits and flags");
    for (text, priority) in [("soon", 9), ("soon, too", 9), ("later", 1), ("", 0)] {
        ensure_eq!(receive(&waits)?, (text.to_owned(), priority), "a message");
    }
    ensure_eq!(receive(&jobs).is_err(), true, "an empty queue");
    ensure_eq!(receive(&other)?, ("x".repeat(8192), 4), "the message that nobody waited for");
    send(&jobs, "new", 0)?;
    ensure_eq!(receive(&waits)?.0, "new", "a new message");
    remove(JOBS)?;
    remove(OTHER)
}

/// A queue of a namespace that a child has for itself.
pub(crate) fn part(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
        let queue = open(JOBS, libc::O_CREAT | libc::O_EXCL | libc::O_RDWR, None)?;
        send(&queue, "inside", 2)?;
        cx.post("child")?;
        cx.park()?;
        ensure_eq!(receive(&queue)?, ("inside".to_owned(), 2), "the message of the child");
        Ok(())
    })?;
    cx.wait_for("child")?;
    cx.barrier()?;
    ensure_eq!(open(JOBS, libc::O_RDWR, None).is_err(), true, "a queue of the child outside");
    child.join()
}

/// Somebody in another ipc namespace than that of a queue, with a message for himself.
fn stranger(cx: &mut Context, queue: &OwnedFd, name: &'static str) -> Verdict {
    send(queue, name, 3)?;
    cx.post(name)?;
    cx.park()?;
    ensure_eq!(receive(queue)?, (name.to_owned(), 3), "the message of a queue of another namespace");
    Ok(())
}

/// A queue that was removed; a child in a namespace of its own with a queue of the parent's, and that
/// one's child, who is back, with a queue of it.
pub(crate) fn removed(cx: &mut Context) -> Verdict {
    const NAME: &CStr = c"/zdtm-mqueue-removed";
    let make = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    let _not_there = remove(NAME);
    let old = open(NAME, make, Some((4, 64)))?;
    let reader = open(NAME, libc::O_RDONLY | libc::O_NONBLOCK, None)?;
    fchmod(&old, Mode::from_bits_retain(0o604))?;
    remove(NAME)?;
    for text in ["old", "older"] {
        send(&old, text, 1)?;
    }
    let home = std::fs::File::open("/proc/self/ns/ipc")?;
    let outer = open(OTHER, make & !libc::O_EXCL, None)?;
    let child = cx.child(|cx| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
        let inner = open(OTHER, make, None)?;
        let back = cx.child(|cx| {
            nix::sched::setns(home, nix::sched::CloneFlags::CLONE_NEWIPC)?;
            stranger(cx, &inner, "back")
        })?;
        cx.wait_for("back")?;
        stranger(cx, &outer, "away")?;
        back.join()
    })?;
    cx.wait_for("away")?;
    let look =
        || Ok::<_, Failure>((owner(&old)?, attributes(&old)?, attributes(&reader)?, fstat(&old)?.st_nlink));
    let before = look()?;
    cx.barrier()?;
    ensure_eq!(look()?, before, "the queue that was removed");
    ensure_eq!(fstat(&old)?.st_ino, fstat(&reader)?.st_ino, "whether there is one only");
    ensure_eq!(receive(&reader)?.0, "old", "a message");
    send(&old, "last", 0)?;
    ensure_eq!([receive(&reader)?.0, receive(&reader)?.0], ["older", "last"], "further messages");
    child.join()?;
    remove(OTHER)
}

/// Somebody waits to be told of a message.
pub(crate) fn notify(cx: &mut Context) -> Verdict {
    let queue = open(JOBS, libc::O_CREAT | libc::O_RDWR, None)?;
    // SAFETY: plain numbers, all of which may be zero.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    (event.sigev_notify, event.sigev_signo) = (libc::SIGEV_SIGNAL, libc::SIGWINCH);
    // SAFETY: the kernel reads one structure.
    Errno::result(unsafe { libc::mq_notify(queue.as_raw_fd(), &raw const event) })?;
    cx.barrier()?;
    drop(queue);
    remove(JOBS)
}
