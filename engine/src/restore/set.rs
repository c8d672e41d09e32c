//! A whole image set, read and checked: what is said of each task, before anything is done about it.

use std::collections::{BTreeSet, HashMap};

use proto::catalogue as c;
use proto::messages::{
    CoreEntry, FdinfoEntry, FsEntry, InventoryEntry, MmEntry, PagemapEntry, PagemapHead, PstreeEntry,
    SeccompEntry, StasisPidSpace, StasisThreadEntry, TaskKobjIdsEntry, VmaEntry,
};

use crate::error::{Class, Explain, Problem, TaskName};
use crate::image::{Images, invalid};
use crate::kinds::mm::extra::Extra;
use crate::kinds::mm::pages::{self, PAGE};
use crate::kinds::mm::status;
use crate::kinds::task::{ThreadImage, seccomp};
use crate::pid_spaces::PidInside;
use crate::side_by_side;

/// The newest image format that we read.
const NEWEST_VERSION: u32 = 2;
/// `task_core_entry.task_state` of a zombie, and of a stopped task. Old sets have zombies of state 3 as well, which have
/// neither a signal that stopped them nor memory.
const TASK_DEAD: u32 = 2;
const TASK_STOPPED: u32 = 3;
/// Signals whose default action is to stop.
const STOP_SIGNALS: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
/// End of the addresses that a 64-bit task has.
pub(super) const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// Why a set as a whole cannot be restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetRefusal {
    /// Its format is newer than we are.
    #[error("the images have format version {0}, this program reads versions up to {NEWEST_VERSION}")]
    Newer(u32),
}

impl Explain for SetRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("restore it with the version that dumped it".into())
    }
}

/// One task to be restored.
#[derive(Debug)]
pub(super) struct Task {
    /// Its pid.
    pub pid: i32,
    /// Its parent's place in the list; none for the root.
    pub parent: Option<usize>,
    /// Its process group.
    pub pgid: i32,
    /// Its session.
    pub sid: i32,
    /// Its threads, the leader first; a zombie has its leader only.
    pub threads: Vec<Thread>,
    /// What it has besides; none for a zombie.
    pub alive: Option<Alive>,
    /// The signal that it is stopped by.
    pub stopped: Option<i32>,
}

/// One thread to be restored.
#[derive(Debug)]
pub(super) struct Thread {
    /// Its id.
    pub tid: i32,
    /// Its image.
    pub core: ThreadImage,
}

/// What a task that is not a zombie has.
#[derive(Debug)]
pub(super) struct Alive {
    /// Its address space.
    pub mm: MmEntry,
    /// Working directory, root, umask.
    pub fs: FsEntry,
    /// Its descriptors, in ascending order of their numbers.
    pub fds: Vec<FdinfoEntry>,
    /// Which pages are in the pages file, in its order.
    pub pagemap: Vec<PagemapEntry>,
    /// Number of the pages file.
    pub pages_id: u32,
    /// What it shares with others.
    pub ids: TaskKobjIdsEntry,
    /// What of it an earlier task has already.
    pub shares: Shares,
    /// Properties of its address space that have no place elsewhere.
    pub extra: Extra,
    /// Its mappings as they are made at first, and filled.
    pub stretches: Vec<VmaEntry>,
}

/// Places of the first tasks with the same resources; none where the task itself is the first.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Shares {
    /// The same address space.
    pub vm: Option<usize>,
    /// The same descriptor table.
    pub files: Option<usize>,
    /// The same root, working directory and umask.
    pub fs: Option<usize>,
}

impl Task {
    /// What it has, unless an earlier task has the same address space.
    pub(super) fn own_memory(&self) -> Option<&Alive> {
        self.alive.as_ref().filter(|alive| alive.shares.vm.is_none())
    }

    /// The leader's image.
    pub(super) fn core(&self) -> &ThreadImage {
        &self.threads.first().expect("reading refuses tasks without threads").core
    }

    /// How its leader ended, if it did so before the other threads.
    pub(super) fn ended_leader(&self) -> Option<i32> {
        self.alive.as_ref()?;
        self.core().own.ended_status.map(|status| status as i32)
    }

    /// The threads that are there in the end.
    pub(super) fn threads_left(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter().skip(usize::from(self.ended_leader().is_some()))
    }

    /// The signal its parent gets when it ends; 0 for none.
    pub(super) fn exit_signal(&self) -> i32 {
        self.core().own.exit_signal.unwrap_or(libc::SIGCHLD as u32) as i32
    }

    /// Its numbers in a pid namespace below that of the root, if it is in one.
    pub(super) fn space(&self) -> Option<StasisPidSpace> {
        self.core().own.pid_space
    }

    /// Its number in its own pid namespace.
    pub(super) fn inside(&self) -> PidInside {
        PidInside::of(self.pid, self.space())
    }

    /// Whether it is the init of a pid namespace below that of the root.
    pub(super) fn begins(&self, space: u32) -> bool {
        self.space().is_some_and(|own| own.ns_id == space) && self.inside().is_init()
    }

    /// How messages name it.
    pub(super) fn name(&self) -> TaskName {
        let comm = self.core().tc.as_ref().map(|tc| tc.comm.clone()).unwrap_or_default();
        TaskName { host_pid: self.pid, inner_pid: None, comm }
    }
}

/// Reads all tasks, parents before their children.
pub(super) fn read(images: &Images) -> Result<Vec<Task>, Problem> {
    let inventory: InventoryEntry = images.read_single(&c::INVENTORY, 0)?;
    if inventory.img_version > NEWEST_VERSION {
        return Err(Problem::new(SetRefusal::Newer(inventory.img_version)));
    }
    let entries: Vec<PstreeEntry> = images.read(&c::PSTREE, 0)?;
    let beside = Beside { own: read_own(images)?, filters: read_filters(images)? };
    let mut cores = read_cores(images, &entries);
    let mut tasks: Vec<Task> = Vec::new();
    let mut places = HashMap::new();
    let mut seen = BTreeSet::new();
    let mut living = Vec::new();
    for entry in entries {
        let damaged = |what| invalid(&c::PSTREE, 0, what);
        let parent = places.get(&entry.ppid).copied();
        if parent.is_none() != tasks.is_empty() {
            return Err(damaged("a task's parent does not come before it, or there are several roots"));
        }
        if entry.threads.first() != Some(&entry.pid) {
            return Err(damaged("the first thread of a task is not its leader"));
        }
        if !entry.threads.iter().all(|tid| (1..=0x40_0000).contains(tid) && seen.insert(*tid)) {
            return Err(damaged("a thread id is impossible, or there twice"));
        }
        places.insert(entry.pid, tasks.len());
        if let Some(at) = living_at(images, &entry, parent, &beside, &mut cores, &mut tasks)? {
            living.push((at, entry.pid.into()));
        }
    }
    let files = side_by_side::map(&living, |(_, pid)| AliveFiles::read(images, *pid));
    let mut firsts = Firsts::default();
    for ((at, pid), files) in living.into_iter().zip(files) {
        let files = files?;
        let shares = firsts.look_up(&files.ids, at);
        let alive = files.finish(images, pid, shares, &tasks)?;
        if let Some(task) = tasks.get_mut(at) {
            task.alive = Some(alive);
        }
    }
    if tasks.is_empty() { Err(invalid(&c::PSTREE, 0, "there are no tasks")) } else { Ok(tasks) }
}

/// What is said of threads in other files than their cores.
#[derive(Debug)]
struct Beside {
    own: HashMap<u32, StasisThreadEntry>,
    filters: SeccompEntry,
}

impl Beside {
    fn thread(&self, tid: u32, core: CoreEntry) -> Result<Thread, Problem> {
        let own = self.own.get(&tid).cloned().unwrap_or_default();
        let filters = seccomp::chain(&self.filters, &core)?;
        Ok(Thread { tid: tid as i32, core: ThreadImage { core, own, filters } })
    }
}

/// What our own file says of each thread; nothing where another program dumped.
fn read_own(images: &Images) -> Result<HashMap<u32, StasisThreadEntry>, Problem> {
    if !images.has(&c::STASIS_THREADS, 0) {
        return Ok(HashMap::new());
    }
    let entries: Vec<StasisThreadEntry> = images.read(&c::STASIS_THREADS, 0)?;
    Ok(entries.into_iter().map(|entry| (entry.tid, entry)).collect())
}

/// The seccomp filters of all threads; none in the oldest images.
fn read_filters(images: &Images) -> Result<SeccompEntry, Problem> {
    if images.has(&c::SECCOMP, 0) { images.read_single(&c::SECCOMP, 0) } else { Ok(SeccompEntry::default()) }
}

/// The cores of all threads, by their ids.
fn read_cores(images: &Images, entries: &[PstreeEntry]) -> HashMap<u32, Result<CoreEntry, Problem>> {
    let tids: Vec<u32> = entries.iter().flat_map(|entry| entry.threads.iter().copied()).collect();
    let cores = side_by_side::map(&tids, |tid| images.read_single(&c::CORE, (*tid).into()));
    tids.into_iter().zip(cores).collect()
}

/// Adds a task, without what it has if it is alive; its place, if it is.
fn living_at(
    images: &Images,
    entry: &PstreeEntry,
    parent: Option<usize>,
    beside: &Beside,
    cores: &mut HashMap<u32, Result<CoreEntry, Problem>>,
    tasks: &mut Vec<Task>,
) -> Result<Option<usize>, Problem> {
    let pid = u64::from(entry.pid);
    let mut core_of = |tid: u32| {
        let missing = || invalid(&c::PSTREE, 0, "a thread is there twice");
        cores.remove(&tid).ok_or_else(missing)?
    };
    let leader = core_of(entry.pid)?;
    let tc = leader.tc.as_ref().ok_or_else(|| invalid(&c::CORE, pid, "it has no task part"))?;
    let is_zombie = match tc.task_state {
        TASK_DEAD => true,
        TASK_STOPPED => tc.stop_signo.is_none() && !images.has(&c::IDS, pid),
        _ => false,
    };
    let stopped = (tc.task_state == TASK_STOPPED && !is_zombie)
        .then(|| tc.stop_signo.map_or(libc::SIGSTOP, |signal| signal as i32));
    if stopped.is_some_and(|signal| !STOP_SIGNALS.contains(&signal)) {
        return Err(invalid(&c::CORE, pid, "it is stopped by a signal that stops nobody"));
    }
    let mut threads = vec![beside.thread(entry.pid, leader)?];
    if !is_zombie {
        for &tid in entry.threads.iter().skip(1) {
            threads.push(beside.thread(tid, core_of(tid)?)?);
        }
    }
    let (pgid, sid) = (entry.pgid as i32, entry.sid as i32);
    tasks.push(Task { pid: entry.pid as i32, parent, pgid, sid, threads, alive: None, stopped });
    Ok((!is_zombie).then(|| tasks.len() - 1))
}

/// The first tasks with each id of what can be shared.
#[derive(Debug, Default)]
struct Firsts {
    vm: HashMap<u32, usize>,
    files: HashMap<u32, usize>,
    fs: HashMap<u32, usize>,
}

impl Firsts {
    fn look_up(&mut self, ids: &TaskKobjIdsEntry, at: usize) -> Shares {
        let first = |seen: &mut HashMap<u32, usize>, id: u32| {
            let first = *seen.entry(id).or_insert(at);
            (first != at).then_some(first)
        };
        Shares {
            vm: first(&mut self.vm, ids.vm_id),
            files: first(&mut self.files, ids.files_id),
            fs: first(&mut self.fs, ids.fs_id),
        }
    }
}

/// The address space of a task.
#[derive(Debug)]
struct MemoryFiles {
    mm: MmEntry,
    pagemap: Vec<PagemapEntry>,
    pages_id: u32,
    extra: Extra,
    stretches: Vec<VmaEntry>,
}

impl MemoryFiles {
    fn read(images: &Images, pid: u64) -> Result<Self, Problem> {
        let mm: MmEntry = images.read_single(&c::MM, pid)?;
        check_mappings(&mm).map_err(|what| invalid(&c::MM, pid, what))?;
        let (head, pagemap) = images.read_with(&c::PAGEMAP, pid, |mut reader| {
            let head: PagemapHead = reader.required()?;
            Ok((head, reader.all::<PagemapEntry>()?))
        })?;
        let pages = check_pagemap(&mm, &pagemap).map_err(|what| invalid(&c::PAGEMAP, pid, what))?;
        check_pages_file(images, head.pages_id, pages)?;
        Self::new(images, pid, mm, pagemap, head.pages_id)
    }

    fn new(
        images: &Images,
        pid: u64,
        mm: MmEntry,
        pagemap: Vec<PagemapEntry>,
        pages_id: u32,
    ) -> Result<Self, Problem> {
        let extra = Extra::read(images, pid, &mm.vmas)?;
        let stretches = stretches(&mm, &pagemap, &extra);
        Ok(Self { mm, pagemap, pages_id, extra, stretches })
    }
}

/// What the files of a task say that is alive.
#[derive(Debug)]
struct AliveFiles {
    ids: TaskKobjIdsEntry,
    /// None where there are no files, as of a task that has the address space of another. It matters for others only.
    memory: Option<Result<MemoryFiles, Problem>>,
    fs: FsEntry,
    fds: Vec<FdinfoEntry>,
}

impl AliveFiles {
    fn read(images: &Images, pid: u64) -> Result<Self, Problem> {
        let ids: TaskKobjIdsEntry = images.read_single(&c::IDS, pid)?;
        let memory = images.has(&c::MM, pid).then(|| MemoryFiles::read(images, pid));
        // CRIU writes none for a task without descriptors. We do.
        let table = u64::from(ids.files_id);
        let has_none = !images.has(&c::FDINFO, table) && !images.has(&c::STASIS_THREADS, 0);
        let mut fds: Vec<FdinfoEntry> = if has_none { Vec::new() } else { images.read(&c::FDINFO, table)? };
        fds.sort_by_key(|fd| fd.fd);
        if fds.windows(2).any(|pair| matches!(pair, [a, b] if a.fd == b.fd))
            || fds.iter().any(|fd| fd.fd > 1 << 30)
        {
            return Err(invalid(&c::FDINFO, table, "a descriptor number is impossible, or there twice"));
        }
        Ok(Self { ids, memory, fs: images.read_single(&c::FS, pid)?, fds })
    }

    /// The task's address space is that of the first that has it, or its own.
    fn finish(self, images: &Images, pid: u64, shares: Shares, before: &[Task]) -> Result<Alive, Problem> {
        let Self { ids, memory, fs, fds } = self;
        let first = shares.vm.and_then(|at| before.get(at)?.alive.as_ref());
        let memory = match (first, memory) {
            (Some(first), _) => MemoryFiles::new(images, pid, first.mm.clone(), Vec::new(), first.pages_id)?,
            (None, Some(memory)) => memory?,
            (None, None) => MemoryFiles::read(images, pid)?,
        };
        let MemoryFiles { mm, pagemap, pages_id, extra, stretches } = memory;
        Ok(Alive { mm, fs, fds, pagemap, pages_id, ids, shares, extra, stretches })
    }
}

/// Protection of a mapping while its contents are filled in.
pub(super) fn filling_prot(pagemap: &[PagemapEntry], vma: &VmaEntry) -> u32 {
    let at = pagemap.partition_point(|entry| {
        entry.vaddr.saturating_add(pages::bytes_of(entry).unwrap_or(u64::MAX)) <= vma.start
    });
    let has_pages = pagemap.get(at).is_some_and(|entry| entry.vaddr < vma.end);
    if has_pages { vma.prot | libc::PROT_WRITE as u32 } else { vma.prot }
}

/// Mappings as they are made at first: with the protection that filling them needs. Neighbors that are private, anonymous and
/// the same until they are protected are one until then.
fn stretches(mm: &MmEntry, pagemap: &[PagemapEntry], extra: &Extra) -> Vec<VmaEntry> {
    let is_plain = |vma: &VmaEntry| {
        vma.status == status::REGULAR | status::ANON_PRIVATE
            && vma.flags & (libc::MAP_GROWSDOWN | libc::MAP_HUGETLB) as u32 == 0
            && !extra.concerns(vma)
    };
    let mut stretches: Vec<VmaEntry> = Vec::new();
    for vma in &mm.vmas {
        let vma = VmaEntry { prot: filling_prot(pagemap, vma), ..*vma };
        match stretches.last_mut().filter(|last| {
            last.end == vma.start
                && (last.prot, last.flags, last.status, last.madv)
                    == (vma.prot, vma.flags, vma.status, vma.madv)
                && is_plain(last)
                && is_plain(&vma)
        }) {
            Some(last) => last.end = vma.end,
            None => stretches.push(vma),
        }
    }
    stretches
}

/// Mappings must be whole pages, in ascending order, apart from each other.
fn check_mappings(mm: &MmEntry) -> Result<(), &'static str> {
    let mut last_end = 0;
    for vma in &mm.vmas {
        if vma.start % PAGE != 0 || vma.end % PAGE != 0 || vma.start >= vma.end {
            return Err("a mapping is not made of whole pages");
        }
        if vma.start < last_end {
            return Err("mappings overlap or are out of order");
        }
        let is_vsyscall = vma.status & status::VSYSCALL != 0;
        if vma.end > TASK_SIZE && !is_vsyscall {
            return Err("a mapping lies outside of the address space");
        }
        last_end = vma.end;
    }
    Ok(())
}

/// Pages must lie in mappings, in ascending order; how many there are.
fn check_pagemap(mm: &MmEntry, pagemap: &[PagemapEntry]) -> Result<u64, &'static str> {
    let mut total = 0_u64;
    let mut last_end = 0;
    let mut vmas = mm.vmas.iter().peekable();
    for entry in pagemap {
        if entry.in_parent.unwrap_or(false) || entry.flags.is_some_and(|flags| flags & 1 != 0) {
            return Err("pages are in a parent image set, which is not supported yet");
        }
        let pages = entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages.into());
        let end = pages
            .checked_mul(PAGE)
            .and_then(|len| entry.vaddr.checked_add(len))
            .ok_or("a run is too long")?;
        if entry.vaddr % PAGE != 0 || entry.vaddr < last_end {
            return Err("runs of pages overlap or are out of order");
        }
        let mut at = entry.vaddr;
        while at < end {
            while vmas.next_if(|vma| vma.end <= at).is_some() {}
            match vmas.peek() {
                Some(vma) if vma.start <= at => at = vma.end.min(end),
                _ => return Err("a page lies in no mapping"),
            }
        }
        total = total.checked_add(pages).ok_or("there are too many pages")?;
        last_end = end;
    }
    Ok(total)
}

fn check_pages_file(images: &Images, id: u32, pages: u64) -> Result<(), Problem> {
    let len = images.length_of(&c::PAGES.file_name(id.into()))?;
    if pages.checked_mul(PAGE).is_some_and(|want| want <= len) {
        return Ok(());
    }
    Err(invalid(&c::PAGES, id.into(), "it is shorter than its pagemap says"))
}
