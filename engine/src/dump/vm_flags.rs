//! What stopped tasks have mapped, where that is much; and what they share with each other.
//!
//! `/proc/PID/smaps` is where the flags of mappings are documented, and it takes its time: it walks through all pages of each
//! mapping, to count them, and writes twenty lines. A program of BPF that walks through the mappings of a task (`task_vma`,
//! Linux 5.12) hands the flags over as the number that they are; `/proc/PID/maps` tells the rest.
//!
//! What the bits of that number mean is no part of the kernel's interface. So mappings of our own are looked at in both ways
//! before, and only those bits are believed that `smaps` has shown to mean what we take them for. Without BTF, without
//! `CAP_BPF`, or where a mapping has another bit, it is `smaps` that is read.
//!
//! The program tells by the way where the kernel has what the task has (`places.rs`).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{LazyLock, Mutex, OnceLock};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use zerocopy::FromBytes as _;

use super::inspect::{read_smaps, read_text};
use super::likeness::{Deciding, Likeness};
use super::places::{Places, ThreadPlaces};
use super::walk::{Raw, Walk, Wanted};
use crate::error::{Problem, SysError};
use crate::procfs;
use crate::procfs::maps::{self, Name, Vma};
use crate::procfs::smaps::{SmapsVma, VmFlag};
use crate::sys::memory::{MappedFile, Sample};
use crate::sys::{bpf, pidfd};
use crate::tracee::seize::thread_count;

/// Pages of a task whose pages are not counted in no time.
const MANY_PAGES: u64 = 8192;
/// Bytes of `/proc/PID/maps` that say that there are many mappings.
const MANY_MAPPINGS: u64 = 64 << 10;
/// Tasks, or threads of a task, that have much together.
const MANY_TASKS: usize = 32;

/// Where `vm_flags` has a flag: `VM_*` of include/linux/mm.h, as they were for long.
const BITS: &[(u32, VmFlag)] = &[
    (0, VmFlag::Read),
    (1, VmFlag::Write),
    (2, VmFlag::Exec),
    (3, VmFlag::Shared),
    (4, VmFlag::MayRead),
    (5, VmFlag::MayWrite),
    (6, VmFlag::MayExec),
    (7, VmFlag::MayShare),
    (8, VmFlag::GrowsDown),
    (10, VmFlag::PureFrameNumbers),
    (13, VmFlag::Locked),
    (14, VmFlag::Io),
    (15, VmFlag::Sequential),
    (16, VmFlag::Random),
    (17, VmFlag::DontCopy),
    (18, VmFlag::DontExpand),
    (19, VmFlag::LockOnFault),
    (20, VmFlag::Accountable),
    (21, VmFlag::NoReserve),
    (25, VmFlag::WipeOnFork),
    (26, VmFlag::DontDump),
    (27, VmFlag::SoftDirty),
    (28, VmFlag::MixedMap),
    (29, VmFlag::HugePage),
    (30, VmFlag::NoHugePage),
];
/// Advice that gives a mapping one of them.
const ADVICE: [i32; 7] = [
    libc::MADV_SEQUENTIAL,
    libc::MADV_RANDOM,
    libc::MADV_DONTFORK,
    libc::MADV_WIPEONFORK,
    libc::MADV_DONTDUMP,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
];

/// What a task has mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Its mappings.
    pub vmas: Vec<SmapsVma>,
    /// Where the kernel has what it has, if that was seen.
    pub places: Option<Box<Places>>,
    /// What it is known by, if others like it may answer for it.
    pub likeness: Option<Likeness>,
}

/// What the program writes of a task.
#[derive(Debug)]
pub(super) struct Written {
    pub places: Box<Places>,
    pub likeness: Option<Likeness>,
    pub mappings: Vec<Raw>,
}

/// What was seen of a thread.
#[derive(Debug, Clone)]
pub struct SeenThread {
    /// Where the kernel has what it has.
    pub places: ThreadPlaces,
    /// What it is known by.
    pub likeness: Likeness,
}

/// Whether we are in the namespace whose ids the kernel uses itself (`PROC_PID_INIT_INO` of include/linux/proc_ns.h).
static IN_INITIAL_PID_NAMESPACE: LazyLock<bool> = LazyLock::new(|| {
    const INITIAL: u64 = 0xefff_fffc;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL)
});

impl Raw {
    /// Whether others may have some of its pages by a fork.
    fn may_share(&self) -> bool {
        self.anon_vma != 0 && (self.root != self.anon_vma || self.descendants > 1)
    }
}

/// A reader that is made while others work.
#[derive(Debug)]
pub(super) struct VmFlagsReader {
    thread: Mutex<Option<JoinHandle<Option<Reader>>>>,
    made: OnceLock<Option<Reader>>,
    /// A task has so much that two threads look at it.
    has_large: bool,
}

impl VmFlagsReader {
    /// Begins to make one, if the tree has much.
    pub(super) fn for_tree(root: i32) -> Self {
        let make = || {
            // The kernel gives up on a program when a signal comes, and there comes one for each task that stops.
            SigSet::all().thread_block().ok()?;
            Reader::new().inspect_err(|why| log::debug!("smaps it is: {why}")).ok()
        };
        let much = tree_has_much(root);
        let thread = much.map(|_| thread::spawn(make));
        Self { thread: Mutex::new(thread), made: OnceLock::new(), has_large: much == Some(Much::InOne) }
    }

    /// Waits until it is made; none where that cannot be, or is not worth it.
    pub(super) fn get(&self) -> Option<&Reader> {
        // Whoever comes while another waits waits, too.
        let thread = || self.thread.lock().ok()?.take()?.join().ok()?;
        self.made.get_or_init(thread).as_ref()
    }

    /// What a stopped task has mapped.
    pub(super) fn mappings(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<Mapped, Problem> {
        let smaps = || Ok(Mapped { vmas: read_smaps(pid)?, places: None, likeness: None });
        let reader = self.get();
        reader.and_then(|reader| self.read(reader, pid, pidfd)).map_or_else(smaps, Ok)
    }

    /// What was seen of the threads of a stopped task, by their ids; nothing where that is not worth it, or cannot be.
    pub(super) fn threads(&self, pid: i32) -> HashMap<i32, SeenThread> {
        // Elsewhere threads have other ids for us than the kernel tells.
        let reader = self.get().filter(|_| *IN_INITIAL_PID_NAMESPACE);
        let pidfd = || pidfd::open(pid).ok();
        let seen = reader.and_then(|reader| reader.threads(pidfd()?.as_fd())).unwrap_or_default();
        seen.into_iter().map(|thread| (thread.places.tid as i32, thread)).collect()
    }

    /// None if smaps must be asked.
    fn read(&self, reader: &Reader, pid: i32, pidfd: BorrowedFd<'_>) -> Option<Mapped> {
        let raw = || reader.raw(pidfd).ok();
        let text = || maps::parse(&read_text(&format!("/proc/{pid}/maps")).ok()?).ok();
        let (raw, vmas) = if self.has_large {
            thread::scope(|scope| {
                let raw = scope.spawn(raw);
                let vmas = text();
                (raw.join().ok().flatten(), vmas)
            })
        } else {
            (raw(), text())
        };
        let Written { places, likeness, mappings } = raw??;
        let vmas = vmas.and_then(|vmas| reader.told(vmas, mappings));
        let vmas = vmas.map_or_else(|| read_smaps(pid).ok(), Some)?;
        Some(Mapped { vmas, places: Some(places), likeness })
    }
}

/// The program, and what its numbers mean.
#[derive(Debug)]
pub(super) struct Reader {
    walk: Walk,
    of_tasks: Deciding,
    of_threads: Deciding,
    /// Bits that mean what we take them for.
    known: u64,
    /// The page of `vsyscall`, which is the same in every task, and no mapping.
    vsyscall: Option<SmapsVma>,
}

impl Reader {
    pub(super) fn new() -> Result<Self, String> {
        let file = File::open("/sys/kernel/btf/vmlinux").map_err(|e| format!("no BTF: {e}"))?;
        let (of_tasks, of_threads) = (Deciding::of_tasks(), Deciding::of_threads());
        let (task, thread) = (of_tasks.fields(), of_threads.fields());
        let load = |types: &[u8]| Walk::load(types, &Wanted { task: &task, thread: &thread });
        let walk = match MappedFile::of_sysfs(&file) {
            Ok(mapped) => load(mapped.get(0, mapped.len()).unwrap_or_default()),
            // Kernels before 6.16 do not map it.
            Err(_) => load(&read_text("/sys/kernel/btf/vmlinux").map_err(|e| e.to_string())?),
        };
        let mut reader = Self { walk: walk?, of_tasks, of_threads, known: 0, vsyscall: None };
        reader.compare_own()?;
        Ok(reader)
    }

    /// Looks at mappings of our own in both ways.
    fn compare_own(&mut self) -> Result<(), String> {
        let samples = [Sample::new(&ADVICE, false), Sample::new(&[], true)];
        let own = std::process::id() as i32;
        let shown = read_smaps(own).map_err(|_unlikely| "our own smaps cannot be read")?;
        let pidfd = pidfd::open(own).map_err(|e| e.to_string())?;
        let raw = self.raw(pidfd.as_fd()).map_err(|e| e.to_string())?;
        let raw = raw.ok_or("nothing of ours is mapped")?.mappings;
        drop(samples);
        for vma in &shown {
            // What we allocate on the way changes the one or the other.
            let Ok(at) = raw.binary_search_by_key(&vma.vma.start, |raw| raw.start) else { continue };
            let Some(raw) = raw.get(at).filter(|raw| raw.end == vma.vma.end) else { continue };
            for (bit, flag) in BITS {
                let is_set = raw.flags >> bit & 1 != 0;
                if is_set != vma.flags.has(*flag) {
                    return Err(format!("bit {bit} of {:#x} is not {flag:?}", raw.flags));
                }
                self.known |= u64::from(is_set) << bit;
            }
        }
        self.vsyscall = shown.into_iter().find(|vma| vma.vma.name() == Name::Vsyscall);
        Ok(())
    }

    /// What the program writes of a task; nothing of one that has nothing mapped.
    pub(super) fn raw(&self, pidfd: BorrowedFd<'_>) -> Result<Option<Written>, SysError> {
        let mut bytes = Vec::with_capacity(1 << 16);
        let mut walk = bpf::iterate(self.walk.mappings.as_fd(), pidfd)?;
        walk.read_to_end(&mut bytes).map_err(SysError::io("read"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let cut = SysError { call: "read", errno: Errno::EIO };
        let (places, rest) = Places::ref_from_prefix(&bytes).map_err(|_cut| cut)?;
        let is_whole = self.walk.threads.is_some();
        let fields = if is_whole { self.of_tasks.length() } else { 0 };
        let (fields, mappings) = rest.split_at_checked(fields).ok_or(cut)?;
        let mappings = <[Raw]>::ref_from_bytes(mappings).map_err(|_cut| cut)?;
        // What further mappings will be is seen in an agent's memory, and the policy of one is asked for.
        let is_plain = places.flags_later == 0 && mappings.iter().all(|mapping| mapping.policy == 0);
        let likeness = if is_whole && is_plain { self.of_tasks.likeness(fields) } else { None };
        Ok(Some(Written { places: Box::new(places.clone()), likeness, mappings: mappings.to_vec() }))
    }

    /// What the other program writes of each thread of a task.
    fn threads(&self, pidfd: BorrowedFd<'_>) -> Option<Vec<SeenThread>> {
        let mut bytes = Vec::with_capacity(1 << 16);
        let mut walk = bpf::iterate(self.walk.threads.as_ref()?.as_fd(), pidfd).ok()?;
        walk.read_to_end(&mut bytes).ok()?;
        let records = bytes.chunks_exact(size_of::<ThreadPlaces>() + self.of_threads.length());
        let one = |record: &[u8]| {
            let (places, fields) = ThreadPlaces::read_from_prefix(record).ok()?;
            Some(SeenThread { places, likeness: self.of_threads.likeness(fields)? })
        };
        records.map(one).collect()
    }

    /// Puts together what both tell.
    fn told(&self, vmas: Vec<Vma>, raw: Vec<Raw>) -> Option<Vec<SmapsVma>> {
        let mut told = Vec::with_capacity(vmas.len());
        let mut raw = raw.into_iter();
        for vma in vmas {
            told.push(self.one(vma, &mut raw)?);
        }
        raw.next().is_none().then_some(told)
    }

    fn one(&self, vma: Vma, raw: &mut impl Iterator<Item = Raw>) -> Option<SmapsVma> {
        if vma.name() == Name::Vsyscall {
            return self.vsyscall.clone().filter(|own| own.vma == vma);
        }
        let raw = raw.next().filter(|raw| (raw.start, raw.end) == (vma.start, vma.end))?;
        if raw.flags & !self.known != 0 {
            return None;
        }
        let flags = BITS.iter().filter(|(bit, _)| raw.flags >> bit & 1 != 0).map(|(_, flag)| *flag);
        let (flags, shared) = (flags.collect(), raw.may_share());
        Some(SmapsVma { vma, flags, shared, page_size: 4096, protection_key: 0 })
    }
}

/// Of what a tree has much, so that it takes long to read what smaps says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Much {
    /// Mappings or pages, in one task.
    InOne,
    /// Tasks, or threads.
    Tasks,
}

fn tree_has_much(root: i32) -> Option<Much> {
    let mut tasks = vec![root];
    let mut at = 0;
    while let Some(pid) = tasks.get(at).copied().filter(|_| tasks.len() < MANY_TASKS) {
        let children = read_text(&format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        tasks.extend(procfs::children::parse(&children).unwrap_or_default());
        at += 1;
    }
    if tasks.len() >= MANY_TASKS {
        return Some(Much::Tasks);
    }
    if tasks.iter().any(|pid| has_much(*pid)) {
        return Some(Much::InOne);
    }
    let threads = tasks.iter().map(|pid| thread_count(*pid).unwrap_or(0));
    (threads.sum::<usize>() >= MANY_TASKS).then_some(Much::Tasks)
}

fn has_much(pid: i32) -> bool {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let resident = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let has_many_mappings = || {
        let file = File::open(format!("/proc/{pid}/maps"));
        let mut text = Vec::with_capacity(4096);
        let read = file.and_then(|file| file.take(MANY_MAPPINGS).read_to_end(&mut text));
        read.is_ok_and(|bytes| bytes as u64 == MANY_MAPPINGS)
    };
    resident.is_some_and(|pages: u64| pages > MANY_PAGES) || has_many_mappings()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::forked::Forked;

    /// Where BTF and the rights are there, both ways tell the same of our own mappings.
    #[test]
    fn both_ways_tell_the_same() {
        let Ok(reader) = Reader::new() else { return };
        // A test has threads, which map and unmap.
        let same = (0..50).any(|_| {
            let own = std::process::id() as i32;
            let shown = read_smaps(own).unwrap();
            let vmas = maps::parse(&read_text("/proc/self/maps").unwrap()).unwrap();
            let raw = reader.raw(pidfd::open(own).unwrap().as_fd()).unwrap().unwrap().mappings;
            let Some(told) = reader.told(vmas, raw) else { return false };
            let flags = |vmas: &[SmapsVma]| -> Vec<_> {
                vmas.iter().map(|vma| (vma.vma.clone(), vma.flags.clone())).collect()
            };
            flags(&shown) == flags(&told)
        });
        assert!(same);
    }

    /// Places tell what others tell, too.
    #[test]
    fn places_are_ours() {
        let Ok(reader) = Reader::new() else { return };
        let fork = Forked::after(&[libc::SYS_close_range, 3, i64::from(u32::MAX), 0]);
        let places = reader.raw(pidfd::open(fork.pid()).unwrap().as_fd()).unwrap().unwrap().places;
        let limits = std::fs::read("/proc/self/limits").unwrap();
        let limits = procfs::limits::parse(&limits).unwrap();
        assert_eq!(limits.map(|limit| [limit.soft, limit.hard]).as_flattened(), places.limits);
        let open: Vec<i32> = places.descriptors().unwrap().map(|one| one.fd).collect();
        assert_eq!(open, [0, 1, 2]);
    }

    #[test]
    fn advised_bits_are_known() {
        let Ok(reader) = Reader::new() else { return };
        let expected = [15, 16, 17, 25, 26, 13, 19, 3, 8];
        assert!(expected.iter().all(|bit| reader.known >> bit & 1 != 0), "{:#x}", reader.known);
    }
}
