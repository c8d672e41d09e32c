//! Contents of restored memory: from the pages files, which we map, or read if they are small, into the stubs.
//!
//! Two ways lead into a stub without its help. `UFFDIO_COPY` gives a page that is not there yet, without zeroing it first;
//! the pages are small. `process_vm_writev` has the page faulted in, which makes it a huge one where the mapping may have
//! those. So memory gets huge pages exactly where a whole one was stored, and nothing that was never touched is.
//! Threads share the work, a part of a file at a time; where it has checksums, those are compared on the way.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use proto::messages::VmaEntry;

use super::contents::Contents;
use super::heirlooms::{Heirlooms, Inheritance};
use super::set::{Alive, Task};
use super::stub::{Stub, Stubs};
use crate::args;
use crate::checksum::{BLOCK, FileSums};
use crate::error::{Context as _, Object, Problem, SysError, TaskName};
use crate::image::{ImageError, Images, invalid};
use crate::kinds::mm::{hugetlb, pages, status};
use crate::options::RestoreOptions;
use crate::progress::Progress;
use crate::side_by_side;
use crate::sys::memory::MappedFile;
use crate::sys::pidfd;
use crate::sys::userfault::Userfault;
use crate::tracee::batch::Batch;
use crate::tracee::memory::write_scattered;

/// Size of a huge page.
const HUGE: u64 = 2 << 20;
/// Mappings with fewer bytes of pages are not worth a registration.
const REGISTERED: u64 = 256 << 10;
/// What a thread takes at a time: as much as a table of pages has room for, since each has a lock.
const PART: u64 = 2 * BLOCK;
/// Tasks with fewer bytes are filled one after the other, and go on meanwhile; those of the others are the work of several threads.
const SMALL: u64 = 256 << 10;
/// Smallest run that is mapped from the images where that is wanted.
const MAPPED: u64 = 1 << 20;

/// How bytes get into a stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `UFFDIO_COPY`: small pages.
    Small,
    /// `process_vm_writev`: whatever a fault gives.
    Fault,
}

/// Bytes of one block of a pages file, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    offset: u64,
    address: u64,
    len: u64,
    way: Way,
}

/// One task's share.
#[derive(Debug)]
struct Job<'a> {
    pid: i32,
    name: TaskName,
    image: String,
    file: Arc<Contents>,
    sums: Option<&'a FileSums>,
    pieces: Vec<Piece>,
    faults: Option<Userfault>,
    /// Mappings whose small pages are ours to give.
    registered: Vec<(u64, u64)>,
}

/// Fills the memory of all stubs, which are at mapping it; how many bytes that were. `filled` is told of each that has its pages,
/// so that it goes on while the next is filled.
pub(super) fn fill(
    stubs: &mut Stubs,
    tasks: &[Task],
    images: &Images,
    heirlooms: &Heirlooms,
    options: &RestoreOptions,
    filled: &mut dyn FnMut(&mut Stub, &Alive) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    let nothing = Inheritance::default();
    let thp = HugePages::read();
    let (mut bytes, mut large, mut waiting) = (0, Vec::new(), Vec::new());
    for (at, (task, stub)) in tasks.iter().zip(&mut stubs.0).enumerate() {
        let Some(alive) = task.own_memory() else { continue };
        let heirlooms = heirlooms.of(at).unwrap_or(&nothing);
        let wanted = |vma: &VmaEntry| !heirlooms.is_filled(vma);
        let job = plan(stub, alive, images, heirlooms, &wanted, thp, options).of_task(&stub.name)?;
        // As long as a stub has its own descriptor open, its mappings are held, even when we let go of ours.
        stub.collect()?;
        match job.filter(|job| !job.pieces.is_empty()) {
            Some(job) if job.bytes() > SMALL => {
                large.push(job);
                waiting.push((stub, alive));
                continue;
            }
            job => bytes += run_all(job.into_iter().collect())?,
        }
        filled(stub, alive)?;
    }
    bytes += run_all(large)?;
    waiting.into_iter().try_for_each(|(stub, alive)| filled(stub, alive))?;
    Ok(bytes)
}

/// Fills what a task gives to those it makes.
pub(super) fn fill_heirlooms(
    stub: &mut Stub,
    alive: &Alive,
    images: &Images,
    heirlooms: &Inheritance,
    options: &RestoreOptions,
) -> Result<(), Problem> {
    let wanted = |vma: &VmaEntry| heirlooms.concerns(vma);
    let job = plan(stub, alive, images, heirlooms, &wanted, HugePages::read(), options);
    let job = job.of_task(&stub.name)?;
    stub.collect()?;
    run_all(job.into_iter().collect()).map(drop)
}

fn run_all(mut jobs: Vec<Job<'_>>) -> Result<u64, Problem> {
    let total: u64 = jobs.iter().map(Job::bytes).sum();
    let mut progress = Progress::new("memory filled", total);
    // A registered mapping has no huge pages, so those come when no mapping is registered any more.
    run(&jobs, Way::Small, total, &mut progress)?;
    for job in &mut jobs {
        job.faults = None;
    }
    run(&jobs, Way::Fault, total, &mut progress)?;
    Ok(total)
}

/// Decides where one task's pages go, in those mappings that are wanted, and takes hold of the mappings that need it.
fn plan<'a>(
    stub: &mut Stub,
    alive: &Alive,
    images: &'a Images,
    heirlooms: &Inheritance,
    wanted: &dyn Fn(&VmaEntry) -> bool,
    thp: HugePages,
    options: &RestoreOptions,
) -> Result<Option<Job<'a>>, Problem> {
    let runs = runs(alive)?;
    let Some((_, last)) = runs.last() else { return Ok(None) };
    let image = proto::catalogue::PAGES.file_name(alive.pages_id.into());
    let about = |p: Problem| p.object(Object::Image(image.clone()));
    let contents = if let Some(contents) = &heirlooms.contents {
        Arc::clone(contents)
    } else {
        let mapped = MappedFile::new(&images.open_file(&image)?);
        Arc::new(Contents::Mapped(mapped.map_err(|e| about(Problem::new(e)))?))
    };
    if contents.len() < last.offset + last.len {
        return Err(invalid(&proto::catalogue::PAGES, alive.pages_id.into(), "it became shorter"));
    }
    let mut job = Job {
        pid: stub.pid,
        name: stub.name.clone(),
        sums: images.sums(&image),
        image,
        file: contents,
        pieces: Vec::new(),
        faults: None,
        registered: Vec::new(),
    };
    let mut from_image = Vec::new();
    let mut asked = false;
    for of_vma in runs.chunk_by(|(a, _), (b, _)| a.start == b.start) {
        let Some((vma, _)) = of_vma.first().filter(|(vma, _)| wanted(vma)) else { continue };
        let bytes: u64 = of_vma.iter().map(|(_, run)| run.len).sum();
        let is_anonymous = vma.status & status::ANON_PRIVATE != 0 && !hugetlb::is_hugetlb(vma);
        let may_be_huge = is_anonymous
            && thp.allow(vma, alive.mm.thp_disabled.unwrap_or(false))
            && vma.start.next_multiple_of(HUGE) + HUGE <= vma.end;
        // What is there already cannot be given.
        let is_registered = is_anonymous && !heirlooms.is_kept(vma) && (may_be_huge || bytes >= REGISTERED);
        if is_registered && !asked {
            (asked, job.faults) = (true, userfault(stub)?);
        }
        let small = is_registered && job.register(vma)?;
        for (_, run) in of_vma {
            if options.map_pages && is_anonymous && run.len >= MAPPED {
                from_image.push((*vma, *run));
            } else {
                for run in heirlooms.missing(vma, *run) {
                    job.add(run, small, may_be_huge);
                }
            }
        }
    }
    if !from_image.is_empty() {
        map_from_image(stub, &images.open_file(&job.image)?, &from_image)?;
    }
    Ok(Some(job))
}

/// Bytes that follow each other in the file and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileRun {
    /// Where they are in the file …
    pub offset: u64,
    /// … and in memory.
    pub address: u64,
    /// How many they are.
    pub len: u64,
}

/// All pages, cut where mappings end, with their mappings. CRIU keeps pages of the vdso, too, which are the kernel's own: nobody
/// writes those.
pub(super) fn runs(alive: &Alive) -> Result<Vec<(&VmaEntry, FileRun)>, Problem> {
    let damaged = || invalid(&proto::catalogue::PAGES, alive.pages_id.into(), "a page lies in no mapping");
    let mut runs: Vec<(&VmaEntry, FileRun)> = Vec::new();
    let mut vmas = alive.stretches.iter().peekable();
    let mut offset = 0;
    for entry in &alive.pagemap {
        let end = pages::bytes_of(entry).and_then(|len| entry.vaddr.checked_add(len)).ok_or_else(damaged)?;
        let mut at = entry.vaddr;
        while at < end {
            while vmas.next_if(|vma| vma.end <= at).is_some() {}
            let vma = *vmas.peek().filter(|vma| vma.start <= at).ok_or_else(damaged)?;
            let len = vma.end.min(end) - at;
            match runs.last_mut() {
                _ if vma.status & (status::VDSO | status::VVAR | status::VSYSCALL) != 0 => {}
                Some((of, last)) if of.start == vma.start && last.address + last.len == at => last.len += len,
                _ => runs.push((vma, FileRun { offset, address: at, len })),
            }
            at += len;
            offset += len;
        }
    }
    Ok(runs)
}

/// Has a stub make a userfaultfd, which we keep; none where the kernel does not let us.
fn userfault(stub: &mut Stub) -> Result<Option<Userfault>, Problem> {
    let step = "take hold of its memory";
    let mut batch = Batch::new();
    let call = batch.try_call("userfaultfd", libc::SYS_userfaultfd, args![Userfault::FLAGS]);
    let made = match stub.run(step, &batch)?.result(call) {
        Ok(number) => number as i32,
        Err(e) => {
            log::debug!("{}: pages are written, not given: {e}", stub.name);
            return Ok(None);
        }
    };
    let taken = pidfd::open(stub.pid).and_then(|pidfd| pidfd::getfd(pidfd, made));
    let fd: OwnedFd = taken.of_task(&stub.name).while_trying_to(step)?;
    let mut batch = Batch::new();
    batch.call("close", libc::SYS_close, args![made]);
    stub.post(step, batch)?;
    Userfault::new(fd).of_task(&stub.name).while_trying_to(step).map(Some)
}

impl Job<'_> {
    /// How much there is to copy.
    fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    /// Takes hold of a mapping; false where that cannot be.
    fn register(&mut self, vma: &VmaEntry) -> Result<bool, Problem> {
        let Some(faults) = &self.faults else { return Ok(false) };
        match faults.register(vma.start, vma.end - vma.start) {
            Ok(()) => {
                self.registered.push((vma.start, vma.end));
                Ok(true)
            }
            Err(SysError { errno: Errno::EINVAL | Errno::EBUSY, .. }) => Ok(false),
            Err(e) => Err(Problem::new(e).step("take hold of its memory")),
        }
    }

    /// Adds a run, cut at the file's blocks, and where whole huge pages begin and end.
    fn add(&mut self, run: FileRun, small: bool, may_be_huge: bool) {
        let end = run.address + run.len;
        let (huge_from, huge_to) = (run.address.next_multiple_of(HUGE), end / HUGE * HUGE);
        let mut at = run.address;
        while at < end {
            let offset = run.offset + (at - run.address);
            let is_huge = may_be_huge && huge_from < huge_to && at >= huge_from && at < huge_to;
            let mut until = end;
            if may_be_huge && huge_from < huge_to {
                until = [huge_from, huge_to].into_iter().find(|edge| *edge > at).unwrap_or(end);
            }
            let len = (until - at).min(BLOCK - offset % BLOCK);
            let way = if small && !is_huge { Way::Small } else { Way::Fault };
            self.pieces.push(Piece { offset, address: at, len, way });
            at += len;
        }
    }

    /// Copies the pieces of one block that go this way.
    fn copy(&self, pieces: &[Piece], way: Way) -> Result<u64, Problem> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(0) };
        if !pieces.iter().any(|piece| piece.way == way) {
            return Ok(0);
        }
        let about = |p: Problem| p.task(&self.name).step("fill its memory");
        // Every block is compared once: those with pieces of both sorts the first time.
        if way == Way::Small || !pieces.iter().any(|piece| piece.way == Way::Small) {
            self.check(first.offset / BLOCK).map_err(about)?;
        }
        let bytes = |piece: &Piece| self.file.get(piece.offset, piece.len);
        let missing = || invalid(&proto::catalogue::PAGES, 0, "it became shorter");
        let mut done = 0;
        let mut scattered = Vec::new();
        for piece in pieces.iter().filter(|piece| piece.way == way) {
            let from = bytes(piece).ok_or_else(missing).map_err(about)?;
            done += piece.len;
            match (&self.faults, way) {
                (Some(faults), Way::Small) => {
                    faults.copy(piece.address, from).map_err(|e| about(Problem::new(e)))?;
                }
                _ => scattered.push((piece.address, from)),
            }
        }
        debug_assert!(last.offset >= first.offset);
        write_scattered(self.pid, &scattered).map_err(|e| about(Problem::new(e)))?;
        Ok(done)
    }

    /// Compares a block with its checksum.
    fn check(&self, block: u64) -> Result<(), Problem> {
        let Some(sums) = self.sums.filter(|_| !self.file.is_checked()) else { return Ok(()) };
        let at = block * BLOCK;
        let len = BLOCK.min(self.file.len().saturating_sub(at));
        match sums.compare_block(at, self.file.get(at, len).unwrap_or_default()) {
            None => Ok(()),
            Some(damage) => {
                Err(Problem::new(ImageError::Damaged(damage)).object(Object::Image(self.image.clone())))
            }
        }
    }
}

/// Copies everything that goes one way, each thread the next part of a file that nobody has yet.
fn run(jobs: &[Job<'_>], way: Way, total: u64, progress: &mut Progress) -> Result<(), Problem> {
    let parts = jobs.iter().flat_map(|job| {
        job.pieces.chunk_by(|a, b| a.offset / PART == b.offset / PART).map(move |pieces| (job, pieces))
    });
    let queue = Mutex::new(parts);
    let next = || queue.lock().ok()?.next();
    let copy = |(job, pieces): (&Job<'_>, &[Piece])| {
        let blocks = pieces.chunk_by(|a, b| a.offset / BLOCK == b.offset / BLOCK);
        blocks.map(|pieces| job.copy(pieces, way)).sum()
    };
    side_by_side::work_off(total, || next().map(copy), &mut |bytes| {
        progress.add(bytes);
        Ok(())
    })
}

/// Maps runs from the image instead of filling them in.
fn map_from_image(
    stub: &mut Stub,
    file: &std::fs::File,
    runs: &[(&VmaEntry, FileRun)],
) -> Result<(), Problem> {
    use std::os::fd::AsFd as _;
    let step = "map its memory from the images";
    let mut runs = runs.iter().peekable();
    while runs.peek().is_some() {
        let mut batch = Batch::new();
        let fd = batch.fd(file.as_fd());
        while let Some((vma, run)) = runs.next_if(|_| !batch.is_nearly_full(2, 0)) {
            let prot = vma.prot | libc::PROT_WRITE as u32;
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
            let args = args![run.address, run.len, prot, flags, fd, run.offset];
            batch.call("mmap", libc::SYS_mmap, args);
        }
        batch.call("close", libc::SYS_close, args![fd]);
        stub.run(step, &batch)?;
    }
    Ok(())
}

/// Which mappings this machine gives huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HugePages {
    /// None.
    Never,
    /// Those that were advised so.
    Advised,
    /// All that were not advised otherwise.
    Always,
}

impl HugePages {
    fn read() -> Self {
        let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if text.contains("[always]") {
            Self::Always
        } else if text.contains("[madvise]") {
            Self::Advised
        } else {
            Self::Never
        }
    }

    fn allow(self, vma: &VmaEntry, disabled: bool) -> bool {
        let advised = |advice: i32| vma.madv.unwrap_or(0) & (1 << advice) != 0;
        let allowed = match self {
            Self::Never => false,
            Self::Advised => advised(libc::MADV_HUGEPAGE),
            Self::Always => !advised(libc::MADV_NOHUGEPAGE),
        };
        allowed && !disabled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job<'static> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        Job {
            pid: 0,
            name: TaskName { host_pid: 1, inner_pid: None, comm: String::new() },
            image: String::new(),
            file: Arc::new(Contents::Mapped(MappedFile::new(&file).unwrap())),
            sums: None,
            pieces: Vec::new(),
            faults: None,
            registered: Vec::new(),
        }
    }

    #[test]
    fn whole_huge_pages_are_faulted_in_and_the_rest_is_small() {
        let mut job = job();
        let run = FileRun { offset: 4096, address: HUGE - 4096, len: 2 * HUGE };
        job.add(run, true, true);
        let total: u64 = job.pieces.iter().map(|piece| piece.len).sum();
        assert_eq!(total, run.len);
        for piece in &job.pieces {
            let is_huge = piece.address >= HUGE && piece.address < 2 * HUGE;
            assert_eq!(piece.way == Way::Fault, is_huge, "{piece:?}");
            assert_eq!(piece.offset / BLOCK, (piece.offset + piece.len - 1) / BLOCK, "{piece:?}");
            assert_eq!(piece.offset - run.offset, piece.address - run.address);
        }
    }

    #[test]
    fn a_part_of_a_huge_page_stays_small() {
        let mut job = job();
        job.add(FileRun { offset: 0, address: HUGE + 4096, len: HUGE - 8192 }, true, true);
        assert!(job.pieces.iter().all(|piece| piece.way == Way::Small), "{:?}", job.pieces);
    }
}
