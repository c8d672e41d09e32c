//! Memory that a child has from its maker: pages that both have alike at the same place are filled in once, before the
//! child is made, and are shared until one of them writes to them, as they were after the fork before the dump.
//!
//! Which pages are alike their contents say: who shares a page and who has another like it cannot tell the difference. So
//! nothing of it is in the images, and those of others are restored so, too. A mapping qualifies that is private, anonymous
//! or of a file, and the same in both tasks; a stack does not where the vdso is to be put just below it, which the kernel
//! would not do.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proto::messages::VmaEntry;

use super::births::{Actor, Step};
use super::contents::{Contents, Parts};
use super::fill::{self, FileRun};
use super::set::{Alive, Task};
use crate::args;
use crate::checksum::BLOCK;
use crate::error::Problem;
use crate::image::Images;
use crate::kinds::mm::{hugetlb, pages::PAGE, status};
use crate::options::RestoreOptions;
use crate::side_by_side;
use crate::sys::memory::MappedFile;
use crate::tracee::batch::Batch;

/// Less than this is not worth the calls.
const LEAST: u64 = 128 << 10;
/// The kernel keeps everything that has a choice so far away from a stack (`stack_guard_gap`), as it is set on most machines; the
/// vdso has one.
const STACK_GAP: u64 = 16 << 20;
/// Pages files with fewer bytes are read, not mapped: that is faster by what the mapping costs at its end.
const READ: u64 = BLOCK;
/// Mappings that a task keeps from its maker, at most: those with the most pages.
const MOST: usize = 64;

/// What each task has from its maker, and gives to those it makes.
#[derive(Debug, Default)]
pub(super) struct Heirlooms {
    tasks: Vec<Inheritance>,
    /// Makers without memory of their own, helpers and zombies, and the tasks whose memory they pass on.
    passing: HashMap<Actor, usize>,
}

/// What one task has and gives.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    /// Mappings that it keeps, by their first addresses.
    kept: BTreeMap<u64, Kept>,
    /// Mappings that others keep from it.
    given: BTreeSet<u64>,
    /// Whether those are filled in already.
    pub given_is_filled: bool,
    /// What is needed of its pages file, if that was compared.
    pub contents: Option<Arc<Contents>>,
}

/// A mapping that a task keeps.
#[derive(Debug)]
pub(super) struct Kept {
    /// Where its pages are right already.
    alike: Vec<(u64, u64)>,
    /// Where it has none, and its maker has.
    stale: Vec<(u64, u64)>,
}

/// A task and its maker, and the mappings that are the same in both.
struct Relatives {
    maker: usize,
    child: usize,
    common: BTreeSet<u64>,
}

/// A task's pages, as its images have them.
struct Pages<'a> {
    bytes: Bytes<'a>,
    runs: Vec<(&'a VmaEntry, FileRun)>,
}

/// Where they are.
enum Bytes<'a> {
    /// In a file, for all who are compared with the task.
    File(Arc<Contents>),
    /// In a buffer, for a moment.
    Buffer(&'a [u8]),
}

impl Heirlooms {
    /// Compares each task with its maker.
    pub(super) fn find(
        tasks: &[Task],
        steps: &[Step],
        images: &Images,
        options: &RestoreOptions,
    ) -> Result<Self, Problem> {
        let tasks_have = tasks.iter().map(|_| Inheritance::default()).collect();
        let mut all = Self { tasks: tasks_have, passing: HashMap::new() };
        if options.map_pages {
            return Ok(all);
        }
        let relatives = all.relatives(tasks, steps);
        // The pages of makers are mapped once, whoever is compared with them.
        let makers: BTreeSet<usize> = relatives.iter().map(|pair| pair.maker).collect();
        let makers: Vec<(usize, &Alive)> =
            makers.into_iter().filter_map(|at| Some((at, tasks.get(at)?.own_memory()?))).collect();
        let mut opened: BTreeMap<usize, Pages<'_>> = BTreeMap::new();
        for (pages, (at, _)) in
            side_by_side::map(&makers, |(_, alive)| open(alive, images)).into_iter().zip(&makers)
        {
            let Some(pages) = pages? else { continue };
            if let (Some(inheritance), Bytes::File(file)) = (all.tasks.get_mut(*at), &pages.bytes) {
                inheritance.contents = Some(Arc::clone(file));
            }
            opened.insert(*at, pages);
        }
        let compare = |pair: &Relatives| {
            let child = tasks.get(pair.child).and_then(Task::own_memory);
            match (opened.get(&pair.maker), opened.get(&pair.child), child) {
                (Some(maker), Some(child), _) => Ok(keep(&pair.common, maker, child).into()),
                (Some(maker), None, Some(child)) => compare_with(maker, &pair.common, child, images),
                _ => Ok(Inheritance::default()),
            }
        };
        for (has, pair) in side_by_side::map(&relatives, compare).into_iter().zip(&relatives) {
            let Inheritance { kept, contents, .. } = has?;
            if let Some(maker) = all.tasks.get_mut(pair.maker) {
                maker.given.extend(kept.keys());
            }
            if let Some(child) = all.tasks.get_mut(pair.child) {
                child.kept = kept;
                child.contents = child.contents.take().or(contents);
            }
        }
        Ok(all)
    }

    /// Tasks that may have something from those that make them; takes note of who passes on what is another's.
    fn relatives(&mut self, tasks: &[Task], steps: &[Step]) -> Vec<Relatives> {
        let memory = |at: usize| tasks.get(at).and_then(Task::own_memory);
        let shared: BTreeSet<usize> =
            tasks.iter().flat_map(|task| &task.alive).filter_map(|alive| alive.shares.vm).collect();
        let mut relatives = Vec::new();
        for step in steps {
            let Step::Bear { new, by, flags } = *step else { continue };
            let Some(maker) = self.source(by) else { continue };
            let child = match new {
                Actor::Task(child) if flags & libc::CLONE_VM != 0 || memory(child).is_some() => child,
                _ => {
                    self.passing.insert(new, maker);
                    continue;
                }
            };
            let (Some(of_child), Some(of_maker)) = (memory(child), memory(maker)) else { continue };
            if flags & libc::CLONE_VM != 0 || shared.contains(&maker) {
                continue;
            }
            let common = common(of_maker, of_child);
            if !common.is_empty() {
                relatives.push(Relatives { maker, child, common });
            }
        }
        relatives
    }

    /// What a task has and gives.
    pub(super) fn of(&self, task: usize) -> Option<&Inheritance> {
        self.tasks.get(task)
    }

    /// The same, to be changed.
    pub(super) fn of_mut(&mut self, task: usize) -> Option<&mut Inheritance> {
        self.tasks.get_mut(task)
    }

    /// Whose memory somebody has who makes others.
    fn source(&self, maker: Actor) -> Option<usize> {
        match (self.passing.get(&maker), maker) {
            (Some(source), _) => Some(*source),
            (None, Actor::Task(task)) => Some(task),
            (None, Actor::Helper(_)) => None,
        }
    }

    /// Adds the calls with which somebody who was just made gets rid of what is not kept of all that the maker has by then.
    pub(super) fn disclaim(&self, new: Actor, by: Actor, tasks: &[Task], batch: &mut Batch<'_>) {
        let (Some(maker), Actor::Task(task)) = (self.source(by), new) else { return };
        if self.passing.contains_key(&new) {
            return;
        }
        let Some(has) = self.of(maker).filter(|has| has.given_is_filled) else { return };
        let kept = self.of(task).map(|task| &task.kept);
        let mappings = tasks.get(maker).and_then(Task::own_memory).map(|alive| &alive.stretches);
        for vma in mappings.into_iter().flatten().filter(|vma| has.is_there(vma)) {
            if !kept.is_some_and(|kept| kept.contains_key(&vma.start)) {
                batch.call("munmap", libc::SYS_munmap, args![vma.start, vma.end - vma.start]);
            }
        }
    }
}

impl Inheritance {
    /// Whether others have something of it.
    pub(super) fn gives(&self) -> bool {
        !self.given.is_empty()
    }

    /// Whether a mapping is kept, or given away.
    pub(super) fn concerns(&self, vma: &VmaEntry) -> bool {
        self.kept.contains_key(&vma.start) || self.given.contains(&vma.start)
    }

    /// Whether a mapping has been made by now, before the others are.
    pub(super) fn is_there(&self, vma: &VmaEntry) -> bool {
        self.kept.contains_key(&vma.start) || self.is_filled(vma)
    }

    /// Whether it has been filled, too.
    pub(super) fn is_filled(&self, vma: &VmaEntry) -> bool {
        self.given_is_filled && self.concerns(vma)
    }

    /// Whether a mapping has pages that came with it, of which some may be wrong.
    pub(super) fn is_kept(&self, vma: &VmaEntry) -> bool {
        self.kept.contains_key(&vma.start)
    }

    /// Where a kept mapping has pages that the task does not have: addresses and lengths.
    pub(super) fn stale(&self, vma: &VmaEntry) -> impl Iterator<Item = (u64, u64)> {
        let stale = self.kept.get(&vma.start).map(|kept| &kept.stale).into_iter().flatten();
        stale.map(|(start, end)| (*start, end - start))
    }

    /// What is still to be filled in of a run.
    pub(super) fn missing(&self, vma: &VmaEntry, run: FileRun) -> Vec<FileRun> {
        let Some(kept) = self.kept.get(&vma.start) else { return vec![run] };
        let end = run.address + run.len;
        let mut missing = Vec::new();
        let mut at = run.address;
        let first = kept.alike.partition_point(|(_, end)| *end <= at);
        let alike = kept.alike.get(first..).unwrap_or_default().iter();
        for (from, to) in alike.take_while(|(from, _)| *from < end).copied().chain([(end, end)]) {
            if at < from {
                missing.push(FileRun {
                    offset: run.offset + (at - run.address),
                    address: at,
                    len: from - at,
                });
            }
            at = to;
        }
        missing
    }
}

/// Mappings that are the same in both.
fn common(maker: &Alive, child: &Alive) -> BTreeSet<u64> {
    let not_inherited = 1 << libc::MADV_DONTFORK | 1 << libc::MADV_WIPEONFORK;
    let vdso_is_near = |vma: &VmaEntry| {
        let mut all = maker.stretches.iter().chain(&child.stretches);
        all.any(|other| {
            other.status & (status::VDSO | status::VVAR) != 0
                && other.end <= vma.start
                && vma.start - other.end <= STACK_GAP
        })
    };
    let qualifies = |vma: &&VmaEntry| {
        vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0
            && vma.status & (status::VDSO | status::VVAR | status::VSYSCALL | status::MEMFD) == 0
            && !hugetlb::is_hugetlb(vma)
            && vma.flags & libc::MAP_TYPE as u32 == libc::MAP_PRIVATE as u32
            && vma.madv.unwrap_or(0) & not_inherited == 0
            && (vma.flags & libc::MAP_GROWSDOWN as u32 == 0 || !vdso_is_near(vma))
    };
    let of_maker: BTreeMap<u64, &VmaEntry> =
        maker.stretches.iter().filter(qualifies).map(|vma| (vma.start, vma)).collect();
    // Files have the same ids in the images of all tasks.
    let seen = |vma: &VmaEntry| (vma.end, vma.prot, vma.flags, vma.status, vma.madv, vma.pgoff, vma.shmid);
    let is_same = |vma: &&VmaEntry| of_maker.get(&vma.start).is_some_and(|other| seen(other) == seen(vma));
    child.stretches.iter().filter(qualifies).filter(is_same).map(|vma| vma.start).collect()
}

impl From<BTreeMap<u64, Kept>> for Inheritance {
    fn from(kept: BTreeMap<u64, Kept>) -> Self {
        Self { kept, ..Self::default() }
    }
}

/// Maps a task's pages; none if it has none.
fn open<'a>(alive: &'a Alive, images: &Images) -> Result<Option<Pages<'a>>, Problem> {
    let runs = fill::runs(alive)?;
    if runs.is_empty() {
        return Ok(None);
    }
    let file = images.open_file(&proto::catalogue::PAGES.file_name(alive.pages_id.into()))?;
    Ok(Some(Pages { bytes: Bytes::File(Arc::new(Contents::Mapped(MappedFile::new(&file)?))), runs }))
}

/// Compares a task that makes no others with its maker: what it keeps, and what it needs of its pages file.
fn compare_with(
    maker: &Pages<'_>,
    common: &BTreeSet<u64>,
    child: &Alive,
    images: &Images,
) -> Result<Inheritance, Problem> {
    thread_local! {
        /// For one file after the other.
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let runs = fill::runs(child)?;
    let Some((_, last)) = runs.last() else { return Ok(Inheritance::default()) };
    let size = last.offset + last.len;
    let name = proto::catalogue::PAGES.file_name(child.pages_id.into());
    let read = BUFFER.with_borrow_mut(|buffer| {
        // A file may be longer than what is needed of it.
        if size > READ || !images.read_few_pages(&name, size, buffer)? {
            return Ok::<_, Problem>(None);
        }
        let pages = Pages { bytes: Bytes::Buffer(buffer), runs };
        let has = Inheritance::from(keep(common, maker, &pages));
        let mut parts = Parts::of(buffer.len() as u64);
        for run in pages.runs.iter().flat_map(|(vma, run)| has.missing(vma, *run)) {
            parts.add(run.offset, pages.bytes.get(run.offset, run.len).unwrap_or_default());
        }
        Ok(Some(Inheritance { contents: Some(Arc::new(Contents::Read(parts))), ..has }))
    })?;
    if let Some(read) = read {
        return Ok(read);
    }
    let Some(pages) = open(child, images)? else { return Ok(Inheritance::default()) };
    let kept = keep(common, maker, &pages);
    let Bytes::File(contents) = pages.bytes else { return Ok(kept.into()) };
    Ok(Inheritance { contents: Some(contents), ..kept.into() })
}

impl Bytes<'_> {
    fn get(&self, offset: u64, len: u64) -> Option<&[u8]> {
        match self {
            Self::File(contents) => contents.get(offset, len),
            Self::Buffer(bytes) => bytes.get(offset as usize..)?.get(..len as usize),
        }
    }
}

impl Pages<'_> {
    fn of(&self, vma: u64) -> impl Iterator<Item = FileRun> + Clone {
        let first = self.runs.partition_point(|(of, _)| of.start < vma);
        let runs = self.runs.get(first..).unwrap_or_default().iter();
        runs.take_while(move |(of, _)| of.start == vma).map(|(_, run)| *run)
    }

    fn page(&self, run: &FileRun, address: u64) -> Option<&[u8]> {
        self.bytes.get(run.offset + (address - run.address), PAGE)
    }
}

/// Decides what a child keeps.
fn keep(common: &BTreeSet<u64>, maker: &Pages<'_>, child: &Pages<'_>) -> BTreeMap<u64, Kept> {
    let size = |kept: &Kept| kept.alike.iter().map(|(start, end)| end - start).sum::<u64>();
    let mut kept: Vec<(u64, Kept)> = common
        .iter()
        .map(|vma| (*vma, compare(*vma, maker, child)))
        .filter(|(_, kept)| !kept.alike.is_empty())
        .collect();
    kept.sort_by_key(|(_, kept)| std::cmp::Reverse(size(kept)));
    kept.truncate(MOST);
    if kept.iter().map(|(_, kept)| size(kept)).sum::<u64>() < LEAST {
        BTreeMap::new()
    } else {
        kept.into_iter().collect()
    }
}

/// Compares the pages of a mapping that both have.
fn compare(vma: u64, maker: &Pages<'_>, child: &Pages<'_>) -> Kept {
    let mut kept = Kept { alike: Vec::new(), stale: Vec::new() };
    let mut of_child = child.of(vma).peekable();
    for theirs in maker.of(vma) {
        let end = theirs.address + theirs.len;
        let mut at = theirs.address;
        while at < end {
            while of_child.next_if(|own| own.address + own.len <= at).is_some() {}
            let Some(own) = of_child.peek().filter(|own| own.address < end) else {
                push(&mut kept.stale, at, end);
                break;
            };
            if at < own.address {
                push(&mut kept.stale, at, own.address);
                at = own.address;
            }
            let until = end.min(own.address + own.len);
            for page in (at..until).step_by(PAGE as usize) {
                let contents = (maker.page(&theirs, page), child.page(own, page));
                if matches!(contents, (Some(theirs), Some(own)) if theirs == own) {
                    push(&mut kept.alike, page, page + PAGE);
                }
            }
            at = until;
        }
    }
    kept
}

fn push(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    match ranges.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => ranges.push((start, end)),
    }
}
