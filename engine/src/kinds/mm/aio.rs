//! Rings of asynchronous I/O: contexts of `io_setup(2)`, whose name is the address of a ring that the kernel and the
//! process share (`/[aio] (deleted)` in `/proc/PID/maps`).
//!
//! The ring (`struct aio_ring` of `fs/aio.c`) shows its size, the events that nobody has collected yet, and where the next
//! one goes. The kernel keeps the last of these for itself, too, and counts events that are collected. So a new context
//! is brought to the same place by as many requests that do nothing, some of them collected, before its ring is moved to
//! the old address (`mremap` renames the context) and gets the old events.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use proto::messages::{AioRingEntry, MmEntry, VmaEntry};

use super::pages::PAGE;
use super::{Contents, MappingKind, status};
use crate::args;
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::image::invalid;
use crate::kinds::files::{FilesDump, FilesRestore};
use crate::procfs::smaps::SmapsVma;
use crate::tracee::agent::Agent;
use crate::tracee::batch::{Arg, Batch, Output, Word};

/// Rings of asynchronous I/O.
#[derive(Debug)]
pub struct AioRing;

/// Why a ring cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum AioRefusal {
    /// The kernel makes rings of another size here.
    #[error("the kernel makes a ring for {is} events where one for {was} is needed")]
    OtherSize {
        /// In the image.
        was: u32,
        /// Here.
        is: u32,
    },
}

impl Explain for AioRefusal {
    fn class(&self) -> Class {
        Class::Environment
    }

    fn help(&self) -> Option<String> {
        // Rings have room for some events of each processor at least.
        Some("restore it on a machine that has no more processors than the one it was dumped on".into())
    }
}

impl MappingKind for AioRing {
    const NAME: &'static str = "aio-ring";
    const NOT_SAVED: &'static [&'static str] = &[
        "requests that are in flight (O_DIRECT, polls): no event comes of them",
        "a wait in io_getevents, which ends with EINTR",
        "that a child inherited a ring without its context: it gets one of its own",
        "how many requests io_setup was asked for: the fewest that give the ring its size are counted in aio-nr",
    ];

    fn claims(vma: &SmapsVma) -> bool {
        vma.vma.inode != 0 && vma.vma.path == b"/[aio] (deleted)"
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::AIO_RING != 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::AllPages
    }

    fn dump(
        _cx: &mut FilesDump<'_>,
        _pid: i32,
        _vma: &SmapsVma,
        entry: &mut VmaEntry,
    ) -> Result<(), Problem> {
        entry.status = status::REGULAR | status::AIO_RING;
        Ok(())
    }

    /// Keeps its place with memory that takes the contents; the ring itself comes when they are there.
    fn restore<'fd>(
        _cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        let place = VmaEntry { flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32, ..*vma };
        super::map(&place, prot, Arg::Value(u64::MAX), 0, batch);
        Ok(())
    }
}

/// Bytes of the ring's head, and of an event.
const HEAD: u64 = 32;
const EVENT: u64 = 32;
const MAGIC: u32 = 0xa10a_10a1;

/// Events that a ring has room for which takes these bytes.
fn room(bytes: u64) -> u64 {
    bytes.saturating_sub(HEAD) / EVENT
}

/// Describes the contexts of an address space.
pub fn describe(vmas: &[VmaEntry]) -> Vec<AioRingEntry> {
    let rings = vmas.iter().filter(|vma| AioRing::owns(vma));
    rings
        .map(|vma| {
            let bytes = vma.end - vma.start;
            AioRingEntry { id: vma.start, nr_req: fewest_requests(bytes), ring_len: bytes as u32 }
        })
        .collect()
}

/// The fewest requests that one must ask for to get a ring of so many bytes: the kernel doubles the number, adds two,
/// and takes whole pages.
fn fewest_requests(bytes: u64) -> u32 {
    let smaller = room(bytes.saturating_sub(PAGE));
    ((smaller + 1).saturating_sub(2).div_ceil(2) as u32).max(1)
}

/// `struct aio_ring`, up to its magic number.
#[derive(Debug, Clone, Copy)]
struct Ring {
    room: u32,
    head: u32,
    tail: u32,
    valid: bool,
}

impl Ring {
    fn read(agent: &Agent, address: u64) -> Result<Self, SysError> {
        let [_id, room, head, tail, magic] = agent.memory().read_value::<[u32; 5]>(address)?;
        Ok(Self { room, head, tail, valid: magic == MAGIC })
    }
}

/// Whether an address space has contexts.
pub fn has_rings(mm: &MmEntry) -> bool {
    mm.vmas.iter().any(AioRing::owns)
}

/// Makes all contexts of an address space again, when the contents of its memory are there.
pub fn restore(mm: &MmEntry, agent: &mut Agent) -> Result<(), Problem> {
    for vma in mm.vmas.iter().filter(|vma| AioRing::owns(vma)) {
        let entry = mm.aios.iter().find(|entry| entry.id == vma.start);
        let entry = entry.ok_or_else(|| invalid(&proto::catalogue::MM, 0, "a ring has no context"));
        let made = entry.and_then(|entry| make(entry, vma, agent));
        made.map_err(|p| p.object(super::object(vma)))
            .while_trying_to("make a context of asynchronous I/O again")?;
    }
    Ok(())
}

fn make(entry: &AioRingEntry, vma: &VmaEntry, agent: &mut Agent) -> Result<(), Problem> {
    let bytes = vma.end - vma.start;
    let mut batch = Batch::new();
    let context = batch.output::<u64>();
    batch.call("io_setup", libc::SYS_io_setup, args![entry.nr_req, context]);
    let context = agent.run(&batch)?.output(context)?;
    let new = Ring::read(agent, context)?;
    if u64::from(new.room) != room(bytes) {
        return Err(Problem::new(AioRefusal::OtherSize { was: room(bytes) as u32, is: new.room }));
    }
    let old = Ring::read(agent, vma.start)?;
    let has_contents = old.valid && (old.head, old.tail) != (0, 0);
    let mut events = Vec::new();
    if has_contents {
        if old.head >= new.room || old.tail >= new.room {
            return Err(invalid(&proto::catalogue::PAGES, 0, "a ring of asynchronous I/O is inconsistent"));
        }
        events = vec![0; (bytes - HEAD) as usize];
        agent.memory().read(vma.start + HEAD, &mut events)?;
        let waiting = if old.tail >= old.head { old.tail - old.head } else { new.room - old.head + old.tail };
        advance(context, old.head, Collect::Yes, agent)?;
        advance(context, waiting, Collect::No, agent)?;
    }
    let mut batch = Batch::new();
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    batch.call("mremap", libc::SYS_mremap, args![context, bytes, bytes, flags, vma.start]);
    agent.run(&batch)?;
    Ok(agent.memory().write(vma.start + HEAD, &events)?)
}

/// Whether events are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collect {
    Yes,
    No,
}

/// Has a context complete requests that read nothing from `/dev/null`.
fn advance(context: u64, mut count: u32, collect: Collect, agent: &mut Agent) -> Result<(), Problem> {
    /// Requests of one call.
    const AT_ONCE: u32 = 32;
    let null = File::open("/dev/null").map_err(SysError::io("open(/dev/null)"))?;
    // The stub has no other descriptor than the agent's socket.
    let number = agent.own_fd() + 1;
    while count > 0 {
        let mut batch = Batch::new();
        let fd = batch.fd(null.as_fd());
        batch.call("dup3", libc::SYS_dup3, args![fd, number, libc::O_CLOEXEC]);
        // struct iocb: the operation is 0, IOCB_CMD_PREAD; the descriptor is the upper half of the third word.
        let request = batch.input(&[0_u64, 0, (number as u64) << 32, 0, 0, 0, 0, 0]);
        let list = batch.input_words(&[Word::Pointer(request); AT_ONCE as usize]);
        let events: Output<u64> = batch.output_len((EVENT * u64::from(AT_ONCE)) as usize);
        let mut calls = Vec::new();
        while count > 0 && !batch.is_nearly_full(4, 0) {
            let now = count.min(AT_ONCE);
            let submit = batch.call("io_submit", libc::SYS_io_submit, args![context, now, list]);
            calls.push((submit, now));
            if collect == Collect::Yes {
                let args = args![context, now, now, events, 0];
                calls.push((batch.call("io_getevents", libc::SYS_io_getevents, args), now));
            }
            count -= now;
        }
        batch.call("close", libc::SYS_close, args![number]);
        batch.call("close", libc::SYS_close, args![fd]);
        let replies = agent.run(&batch)?;
        for (call, wanted) in calls {
            if replies.result(call)? != i64::from(wanted) {
                return Err(SysError { call: "io_submit (short)", errno: Errno::EAGAIN }.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_asked_for_by_their_size() {
        // What fs/aio.c makes of a number, on a machine with one processor.
        let pages = |requests: u64| (HEAD + EVENT * (requests.max(4) * 2 + 2)).div_ceil(PAGE);
        for size in 1..200 {
            let fewest = fewest_requests(size * PAGE).into();
            assert_eq!(pages(fewest), size);
            assert!(size == 1 || pages(fewest - 1) < size);
        }
    }
}
