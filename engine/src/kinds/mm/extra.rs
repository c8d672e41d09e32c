//! Properties of mappings and of the address space that CRIU's images have no place for: `stasis-mm-PID.img`.
//!
//! Locking and seals are seen in `/proc/PID/smaps`, guard regions by `PAGEMAP_SCAN` (Linux 6.15), and the task is asked
//! for NUMA policies. That later mappings will be locked (`mlockall(MCL_FUTURE)`) shows in the agent's own memory, which
//! is such a mapping.

use std::collections::HashMap;
use std::sync::LazyLock;

use proto::messages::{StasisMmEntry, StasisRange, StasisVmaEntry, VmaEntry};

use crate::args;
use crate::dump::inspect::{TaskFacts, read_proc, read_single};
use crate::error::{Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::procfs;
use crate::procfs::maps::Name;
use crate::procfs::smaps::{SmapsVma, VmFlag};
use crate::tracee::agent::{Agent, AgentError};
use crate::tracee::batch::{Batch, CallId, Output, Replies};

// From `include/uapi/linux/mempolicy.h`.
const MPOL_F_ADDR: u64 = 1 << 1;
/// Nodes that a policy can name, and one, as the kernel counts them.
pub const MAX_NODES: u64 = 1024 + 1;
/// Bytes for as many.
pub const NODE_BYTES: usize = 128;
// From `include/uapi/asm-generic/mman-common.h`.
const MADV_GUARD_INSTALL: i32 = 102;
/// `MLOCK_ONFAULT` of mlock2(2).
const MLOCK_ONFAULT: i32 = 1;
// From `include/uapi/linux/prctl.h`.
const PR_SET_VMA: i32 = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: i32 = 0;
/// `mseal(2)`, Linux 6.10.
const SYS_MSEAL: i64 = 462;
/// Mappings that are asked for their policy one by one, even where there is only one node to put pages on.
const FEW: usize = 500;

/// What a task is asked about its mappings.
#[derive(Debug)]
pub struct Questions<'a> {
    vmas: Vec<StasisVmaEntry>,
    /// The calls, and the mapping that each is about.
    asked: Vec<(Batch<'static>, Vec<Asked<'a>>)>,
}

/// A mapping, the call that asks for its policy, and where mode and nodes come.
type Asked<'a> = (&'a SmapsVma, CallId, Output<i32>, Output<[u8; NODE_BYTES]>);

impl<'a> Questions<'a> {
    /// Takes what can be seen of a stopped task's mappings, and asks for the policy of each mapping that the task has pages of
    /// its own in, or shares.
    pub fn of(facts: &'a TaskFacts) -> Self {
        let vmas = facts.vmas.iter().filter_map(look_at).collect();
        let mut asked = Vec::new();
        let is_asked = *SEVERAL_NODES || facts.vmas.len() <= FEW;
        let mut wanted = facts.vmas.iter().filter(|vma| is_asked && may_have_policy(vma)).peekable();
        while wanted.peek().is_some() {
            let mut batch = Batch::new();
            let mut answers = Vec::new();
            while let Some(vma) = wanted.next_if(|_| !batch.is_nearly_full(1, NODE_BYTES + 8)) {
                let mode: Output<i32> = batch.output();
                let nodes: Output<[u8; NODE_BYTES]> = batch.output();
                let args = args![mode, nodes, MAX_NODES, vma.vma.start, MPOL_F_ADDR];
                let call = batch.try_call("get_mempolicy", libc::SYS_get_mempolicy, args);
                answers.push((vma, call, mode, nodes));
            }
            asked.push((batch, answers));
        }
        Self { vmas, asked }
    }

    /// The calls, in as many batches as there must be.
    pub fn batches(&self) -> impl Iterator<Item = &Batch<'static>> {
        self.asked.iter().map(|(batch, _)| batch)
    }

    /// Takes what was answered to each batch.
    pub fn answer(self, replies: &[Replies]) -> Result<StasisMmEntry, SysError> {
        let mut vmas = self.vmas;
        for ((_, answers), replies) in self.asked.into_iter().zip(replies) {
            for (vma, call, mode, nodes) in answers {
                // Kernels without NUMA have no such call, and special mappings no policy.
                let mode = if replies.result(call).is_ok() { replies.output(mode)? } else { 0 };
                if mode != 0 {
                    let entry = entry_for(&mut vmas, vma);
                    entry.numa_mode = Some(mode as u32);
                    let nodes = replies.output_bytes(nodes)?;
                    let used = nodes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    entry.numa_nodes = nodes.get(..used).map(<[u8]>::to_vec);
                }
            }
        }
        Ok(StasisMmEntry { guards: Vec::new(), vmas, lock_later: None })
    }
}

/// What can be seen of a task's mappings, without a policy.
pub fn without_policies(facts: &TaskFacts) -> StasisMmEntry {
    let vmas = facts.vmas.iter().filter_map(look_at).collect();
    StasisMmEntry { guards: Vec::new(), vmas, lock_later: None }
}

/// Whether the task is not asked about mappings that it shares: their policy belongs to what is shared.
pub fn asks_nothing_shared(facts: &TaskFacts) -> bool {
    !facts.vmas.iter().any(|vma| vma.vma.perms.shared)
}

fn may_have_policy(vma: &SmapsVma) -> bool {
    vma.vma.inode == 0 || vma.vma.perms.shared
}

/// Adds what the agent's own memory shows; who has none has nothing to show.
pub fn with_lock_later(
    entry: StasisMmEntry,
    facts: &TaskFacts,
    agent: Option<&Agent>,
) -> Result<StasisMmEntry, Problem> {
    let lock_later = agent.map_or(Ok(None), |agent| lock_later(facts, agent))?;
    Ok(StasisMmEntry { lock_later, ..entry })
}

fn look_at(vma: &SmapsVma) -> Option<StasisVmaEntry> {
    let name = match vma.vma.name() {
        Name::Anon(name) | Name::AnonShmem(name) => Some(name.to_vec()),
        _ => None,
    };
    let entry = StasisVmaEntry {
        range: StasisRange { start: vma.vma.start, end: vma.vma.end },
        lock_on_fault: vma.flags.has(VmFlag::LockOnFault).then_some(true),
        sealed: is_sealed(vma).then_some(true),
        name,
        ..StasisVmaEntry::default()
    };
    (entry.lock_on_fault.is_some() || entry.sealed.is_some() || entry.name.is_some()).then_some(entry)
}

/// The kernel's own parts are sealed by the kernel, where that is configured.
fn is_sealed(vma: &SmapsVma) -> bool {
    vma.flags.has(VmFlag::Sealed) && !vma.vma.path.starts_with(b"[v")
}

/// Whether this machine has several memory nodes.
static SEVERAL_NODES: LazyLock<bool> = LazyLock::new(|| {
    let online = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    online.trim().contains(['-', ','])
});

fn entry_for<'a>(vmas: &'a mut Vec<StasisVmaEntry>, vma: &SmapsVma) -> &'a mut StasisVmaEntry {
    let start = vma.vma.start;
    match vmas.binary_search_by_key(&start, |entry| entry.range.start) {
        Ok(at) => &mut vmas[at],
        Err(at) => {
            let range = StasisRange { start, end: vma.vma.end };
            vmas.insert(at, StasisVmaEntry { range, ..StasisVmaEntry::default() });
            &mut vmas[at]
        }
    }
}

/// Whether later mappings will be locked, and how. The agent's memory is later than all that we know of.
fn lock_later(facts: &TaskFacts, agent: &Agent) -> Result<Option<u32>, Problem> {
    if facts.places.as_ref().is_some_and(|places| places.flags_later == 0) {
        return Ok(None);
    }
    let status = read_single(&format!("/proc/{}/status", facts.pid), procfs::status::parse)?;
    let locked = status.locked.unwrap_or(0);
    let is_counted = |vma: &&SmapsVma| vma.flags.has(VmFlag::Locked) && !vma.flags.has(VmFlag::HugeTlb);
    if facts.vmas.iter().filter(is_counted).map(|vma| vma.vma.len()).sum::<u64>() == locked {
        return Ok(None);
    }
    let vmas = read_proc(format!("/proc/{}/smaps", facts.pid), procfs::smaps::parse)?;
    let own = vmas.iter().find(|vma| agent.is_own(vma.vma.start, vma.vma.end));
    let is = |flag| own.is_some_and(|vma| vma.flags.has(flag));
    let on_fault = if is(VmFlag::LockOnFault) { libc::MCL_ONFAULT } else { 0 };
    Ok(is(VmFlag::Locked).then_some((libc::MCL_FUTURE | on_fault) as u32))
}

/// Whether orphans come to the task: it is a subreaper, or the init of its pid namespace.
pub fn takes_orphans(agent: &mut Agent) -> Result<bool, AgentError> {
    let mut batch = Batch::new();
    let is: Output<i32> = batch.output();
    batch.call("prctl(PR_GET_CHILD_SUBREAPER)", libc::SYS_prctl, args![libc::PR_GET_CHILD_SUBREAPER, is]);
    let pid = batch.call("getpid", libc::SYS_getpid, args![]);
    let replies = agent.run(&batch)?;
    Ok(replies.output(is)? != 0 || replies.result(pid)? == 1)
}

/// Takes guard regions that a scan found.
pub fn add_guards(entry: &mut StasisMmEntry, guards: &[(u64, u64)]) {
    entry.guards.extend(guards.iter().map(|&(start, end)| StasisRange { start, end }));
}

/// Writes the image, unless there is nothing to say.
pub fn write(images: &mut NewImages, pid: u64, entry: &StasisMmEntry) -> Result<(), Problem> {
    if *entry == StasisMmEntry::default() {
        return Ok(());
    }
    images.write(&proto::catalogue::STASIS_MM, pid, std::slice::from_ref(entry))
}

/// What an image says, by the starts of mappings.
#[derive(Debug, Default)]
pub struct Extra {
    vmas: HashMap<u64, StasisVmaEntry>,
    guards: Vec<StasisRange>,
    lock_later: Option<u32>,
}

impl Extra {
    /// Reads the image, if there is one.
    pub fn read(images: &Images, pid: u64, vmas: &[VmaEntry]) -> Result<Self, Problem> {
        let image = &proto::catalogue::STASIS_MM;
        if !images.has(image, pid) {
            return Ok(Self::default());
        }
        let entry: StasisMmEntry = images.read_single(image, pid)?;
        let guards = entry.guards;
        if !guards.iter().all(|guard| is_mapped(vmas, guard)) {
            return Err(invalid(image, pid, "a guard region lies in no mapping"));
        }
        let vmas = entry.vmas.into_iter().map(|vma| (vma.range.start, vma)).collect();
        Ok(Self { vmas, guards, lock_later: entry.lock_later })
    }

    fn of(&self, vma: &VmaEntry) -> Option<&StasisVmaEntry> {
        self.vmas.get(&vma.start).filter(|extra| extra.range.end == vma.end)
    }

    /// Whether a mapping has any such properties.
    pub fn concerns(&self, vma: &VmaEntry) -> bool {
        self.vmas.contains_key(&vma.start)
    }

    /// Adds what a mapping needs before it has pages.
    pub fn before_pages(&self, vma: &VmaEntry, batch: &mut Batch<'_>) {
        let Some(extra) = self.of(vma) else { return };
        if let (Some(mode), Some(nodes)) = (extra.numa_mode, &extra.numa_nodes) {
            let mut mask = [0_u8; NODE_BYTES];
            mask.iter_mut().zip(nodes).for_each(|(byte, node)| *byte = *node);
            let mask = batch.input(&mask);
            let args = args![vma.start, vma.end - vma.start, mode, mask, MAX_NODES, 0];
            batch.call("mbind", libc::SYS_mbind, args);
        }
    }

    /// Whether a mapping is locked only as its pages are touched.
    pub fn mlock_flags(&self, vma: &VmaEntry) -> i32 {
        let on_fault = self.of(vma).is_some_and(|extra| extra.lock_on_fault == Some(true));
        if on_fault { MLOCK_ONFAULT } else { 0 }
    }

    /// Adds the calls that make guard regions.
    pub fn guard(
        &self,
        batch: &mut Batch<'_>,
        flush: &mut dyn FnMut(&mut Batch<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        for guard in &self.guards {
            if batch.is_nearly_full(1, 0) {
                flush(batch)?;
            }
            let args = args![guard.start, guard.end - guard.start, MADV_GUARD_INSTALL];
            batch.call("madvise(MADV_GUARD_INSTALL)", libc::SYS_madvise, args);
        }
        Ok(())
    }

    /// Adds what comes last for a mapping: its name, and then nothing can be changed any more.
    pub fn at_last(&self, vma: &VmaEntry, batch: &mut Batch<'_>) {
        let Some(extra) = self.of(vma) else { return };
        let len = vma.end - vma.start;
        if let Some(name) = &extra.name {
            let name = batch.input_str(name);
            let args = args![PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma.start, len, name];
            // A kernel without names shows none.
            batch.try_call("prctl(PR_SET_VMA)", libc::SYS_prctl, args);
        }
        if extra.sealed == Some(true) {
            batch.call("mseal", SYS_MSEAL, args![vma.start, len, 0]);
        }
    }

    /// Adds the call that locks later mappings; none must come that is not the task's own.
    pub fn lock_later(&self, batch: &mut Batch<'_>) {
        if let Some(flags) = self.lock_later {
            batch.call("mlockall", libc::SYS_mlockall, args![flags]);
        }
    }
}

/// Whether a range lies in mappings that follow each other.
fn is_mapped(vmas: &[VmaEntry], range: &StasisRange) -> bool {
    let mut at = range.start;
    let first = vmas.partition_point(|vma| vma.end <= at);
    for vma in vmas.get(first..).unwrap_or_default() {
        if at >= range.end || vma.start > at {
            break;
        }
        at = vma.end;
    }
    range.start < range.end && at >= range.end
}
