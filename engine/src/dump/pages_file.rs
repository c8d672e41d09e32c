//! A file of pages: bytes from another process or an object in memory, to a file, by as many threads as there are processors.
//!
//! Each thread takes the next unit of the file, has the kernel copy what belongs there, and computes checksums while the
//! bytes are in its cache. Two threads cannot write to one file at the same time, since a write holds the lock of the
//! inode; what they read and sum up meanwhile they can. On tmpfs, where it is the allocation of each small page that takes
//! so long, a unit of the file becomes a huge page (`MADV_COLLAPSE`) that is mapped here: the bytes go there at once, and
//! no lock is held. On a disk its blocks are allocated first. Where that is not to be had, or takes long because memory is in pieces, the unit is written as
//! elsewhere.

use std::cell::RefCell;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::checksum::{self, BLOCK, BlockSum, FileSums};
use crate::error::{Context as _, Problem, SysError};
use crate::kinds::mm::pages::Run;
use crate::procfs::smaps::SmapsVma;
use crate::side_by_side;
use crate::sys::memory::{self, MappedOutput};
use crate::tracee::memory::Memory;

/// What a thread takes at a time.
const UNIT: u64 = MappedOutput::HUGE as u64;
/// Bytes that are copied at once, and then summed up while they are in the cache.
const PIECE: usize = 256 << 10;
/// What a huge page may cost. Where memory is at hand it costs a fiftieth of that, and half of it where a host took back what
/// was free: that is paid once, and small pages would have later dumps find their remains. More is the search for room.
const PATIENCE: Duration = Duration::from_millis(8);
/// Huge pages that may cost much more, before that counts.
const CREDIT: i64 = 16;
/// Units that go by until a huge page that cost twice as much is forgiven.
const FORGIVEN_AFTER: i64 = 8;

thread_local! {
    /// Through which a thread copies, one block after the other.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where pages come from.
pub(crate) trait Source: Sync {
    /// Reads bytes of one run, from an address on.
    fn read(&self, ranges: &[(u64, usize)], buffer: &mut [u8]) -> Result<(), SysError>;
}

/// Memory of a process, some of which others may have from a fork.
///
/// `process_vm_readv` pins pages, and one that is shared is copied for that first (`gup_must_unshare` of mm/gup.c, Linux 5.19):
/// a tree would use more memory after a dump than before. `/proc/PID/mem` pins nothing, and takes longer.
pub(crate) struct ForkedMemory<'a> {
    memory: &'a Memory,
    /// What may be shared: starts and ends, in ascending order.
    shared: Vec<(u64, u64)>,
}

impl<'a> ForkedMemory<'a> {
    /// That of a task with these mappings.
    pub(crate) fn of_task(memory: &'a Memory, vmas: &[SmapsVma]) -> Self {
        let shared = vmas.iter().filter(|vma| vma.shared);
        Self { memory, shared: shared.map(|vma| (vma.vma.start, vma.vma.end)).collect() }
    }

    /// That of a copy, which shares all of it.
    pub(crate) fn of_copy(memory: &'a Memory) -> Self {
        Self { memory, shared: vec![(0, u64::MAX)] }
    }

    fn is_shared(&self, address: u64, len: usize) -> bool {
        let at = self.shared.partition_point(|(_, end)| *end <= address);
        self.shared.get(at).is_some_and(|(start, _)| *start < address + len as u64)
    }
}

impl Source for ForkedMemory<'_> {
    fn read(&self, ranges: &[(u64, usize)], buffer: &mut [u8]) -> Result<(), SysError> {
        let is_shared = |&(address, len): &(u64, usize)| self.is_shared(address, len);
        let mut rest = buffer;
        for ranges in ranges.chunk_by(|a, b| is_shared(a) == is_shared(b)) {
            let bytes = ranges.iter().map(|(_, len)| len).sum::<usize>().min(rest.len());
            let (now, later) = rest.split_at_mut(bytes);
            rest = later;
            if ranges.first().is_some_and(is_shared) {
                self.memory.read_each(ranges, now, 0)?;
            } else {
                self.memory.read_ranges(ranges, now)?;
            }
        }
        Ok(())
    }
}

/// Consecutive bytes of the file that one thread copies.
type Unit<'m> = (u64, u64, Option<&'m mut [u8]>);

/// A copy that is under way.
struct Copying<'a> {
    source: &'a dyn Source,
    runs: &'a [Run],
    file: &'a File,
    /// Sums of blocks, by their offset; none if they are not wanted.
    sums: Option<Mutex<Vec<(u64, u64)>>>,
    huge: HugePages,
}

/// Whether huge pages are worth what they cost: microseconds that they cost too much.
///
/// Memory that was free for long may have to be fetched from elsewhere first, page by page, as in a virtual machine whose host
/// takes back what is free. It is tried again from time to time, since what others gave back just now is at hand.
struct HugePages(AtomicI64);

/// Copies all runs of a new file to their places in it; its checksums, if they are wanted. `told` hears how many bytes are
/// done, and may end it.
pub(crate) fn write(
    source: &dyn Source,
    runs: &[Run],
    file: &File,
    with_sums: bool,
    told: &mut dyn FnMut(u64) -> Result<(), Problem>,
) -> Result<Option<FileSums>, Problem> {
    let size = runs.last().map_or(0, |run| run.offset + run.len());
    let sums = with_sums.then(Mutex::default);
    let copying = Copying { source, runs, file, sums, huge: HugePages::new() };
    let mut mapped = if size > side_by_side::ALONE { make_room(file, size)? } else { None };
    let units = (0..size).step_by(UNIT as usize).map(|at| (at, UNIT.min(size - at)));
    match &mut mapped {
        Some(mapped) => {
            let windows = mapped.bytes().chunks_mut(UNIT as usize);
            copying.all(size, units.zip(windows).map(|((at, len), window)| (at, len, Some(window))), told)?;
        }
        None => copying.all(size, units.map(|(at, len)| (at, len, None)), told)?,
    }
    let Some(sums) = copying.sums else { return Ok(None) };
    let mut sums = sums.into_inner().unwrap_or_default();
    sums.sort_unstable();
    Ok(Some(FileSums { size, blocks: sums.into_iter().map(|(_, sum)| sum).collect() }))
}

/// Copies some runs of a file to their places in it.
pub(crate) fn write_some(
    source: &dyn Source,
    runs: &[Run],
    file: &File,
    told: &mut dyn FnMut(u64) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let copying = Copying { source, runs, file, sums: None, huge: HugePages::new() };
    let units = runs.iter().flat_map(|run| {
        let parts = (0..run.len()).step_by(UNIT as usize);
        parts.map(|at| (run.offset + at, UNIT.min(run.len() - at), None))
    });
    copying.all(runs.iter().map(Run::len).sum(), units, told)
}

/// Gives a file its size. On tmpfs it is mapped; elsewhere its blocks are allocated all at once, which takes no time and saves
/// a third of that of the writes. Where there is not enough of them, that is known before anything is copied.
fn make_room(file: &File, size: u64) -> Result<Option<MappedOutput>, Problem> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let (Some(len), true) = (NonZeroUsize::new(size as usize), memory::is_tmpfs(file)?) else {
        return match fallocate(file, FallocateFlags::empty(), 0, size as i64) {
            Err(errno @ Errno::ENOSPC) => {
                Err(SysError { call: "fallocate", errno }).while_trying_to("write pages")
            }
            // Not every file system can; it is only slower without.
            _ => Ok(None),
        };
    };
    file.set_len(size).map_err(SysError::io("ftruncate")).while_trying_to("write pages")?;
    Ok(Some(MappedOutput::new(file, len)?))
}

impl Copying<'_> {
    /// Copies units, each thread the next that nobody has yet.
    fn all<'m>(
        &self,
        bytes: u64,
        units: impl Iterator<Item = Unit<'m>> + Send,
        told: &mut dyn FnMut(u64) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let units = Mutex::new(units);
        let next = || units.lock().ok()?.next();
        let work = || next().map(|unit| self.unit(unit).while_trying_to("write pages"));
        side_by_side::work_off(bytes, work, told)
    }

    fn unit(&self, (offset, len, window): Unit<'_>) -> Result<u64, SysError> {
        if let Some(window) = window
            && self.huge.are_worth_it()
            && self.make_huge(offset, window)
        {
            for (at, block) in (offset..).step_by(BLOCK as usize).zip(window.chunks_mut(BLOCK as usize)) {
                self.block(at, block)?;
            }
            return Ok(len);
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(BLOCK.min(len) as usize), 0);
            self.through(buffer, offset, len)
        })
    }

    /// Copies a unit block by block.
    fn through(&self, buffer: &mut [u8], offset: u64, len: u64) -> Result<u64, SysError> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            // Blocks begin at multiples of their size, units of some runs anywhere.
            let len = (BLOCK - at % BLOCK).min(end - at);
            let block = buffer.get_mut(..len as usize).unwrap_or_default();
            self.block(at, block)?;
            self.file.write_all_at(block, at).map_err(SysError::io("write"))?;
            at += len;
        }
        Ok(len)
    }

    /// Makes a unit a huge page; false where that cannot be.
    fn make_huge(&self, offset: u64, window: &mut [u8]) -> bool {
        let start = Instant::now();
        // A unit without any page is taken for a hole, and left alone.
        let made = window.len() as u64 == UNIT
            && self.file.write_all_at(&[0], offset).is_ok()
            && memory::collapse(window).is_ok();
        self.huge.took(start.elapsed());
        made
    }

    /// Fills a block, or a part of one, with what belongs there.
    fn block(&self, offset: u64, block: &mut [u8]) -> Result<(), SysError> {
        let mut ranges = Vec::new();
        let mut fill = |at: u64, piece: &mut [u8]| {
            self.ranges(at, piece.len() as u64, &mut ranges);
            self.source.read(&ranges, piece)
        };
        let sum = if block.len() <= PIECE {
            fill(offset, block)?;
            self.sums.as_ref().map(|_| checksum::of(block))
        } else {
            let mut sum = self.sums.as_ref().map(|_| BlockSum::default());
            for (at, piece) in (offset..).step_by(PIECE).zip(block.chunks_mut(PIECE)) {
                fill(at, piece)?;
                if let Some(sum) = &mut sum {
                    sum.add(piece);
                }
            }
            sum.map(|sum| sum.finish())
        };
        if let (Some(sum), Some(Ok(mut sums))) = (sum, self.sums.as_ref().map(Mutex::lock)) {
            sums.push((offset, sum));
        }
        Ok(())
    }

    /// Where the bytes of a piece of the file come from.
    fn ranges(&self, offset: u64, len: u64, ranges: &mut Vec<(u64, usize)>) {
        ranges.clear();
        let end = offset + len;
        let first = self.runs.partition_point(|run| run.offset + run.len() <= offset);
        for run in self.runs.get(first..).unwrap_or_default().iter().take_while(|run| run.offset < end) {
            let from = offset.max(run.offset);
            let until = end.min(run.offset + run.len());
            ranges.push((run.start + (from - run.offset), (until - from) as usize));
        }
    }
}

impl HugePages {
    const PATIENCE: i64 = PATIENCE.as_micros() as i64;

    fn new() -> Self {
        Self(AtomicI64::new(-CREDIT * Self::PATIENCE))
    }

    fn are_worth_it(&self) -> bool {
        let too_much = self.0.load(Ordering::Relaxed) > 0;
        if too_much {
            self.0.fetch_sub(Self::PATIENCE / FORGIVEN_AFTER, Ordering::Relaxed);
        }
        !too_much
    }

    fn took(&self, time: Duration) {
        let cost = time.as_micros() as i64 - Self::PATIENCE;
        let before = self.0.fetch_add(cost, Ordering::Relaxed);
        // A long time of cheap ones is no credit.
        if before + cost < -CREDIT * Self::PATIENCE {
            self.0.store(-CREDIT * Self::PATIENCE, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address is what it holds, eight bytes at a time.
    struct Addresses;

    impl Source for Addresses {
        fn read(&self, ranges: &[(u64, usize)], buffer: &mut [u8]) -> Result<(), SysError> {
            assert_eq!(ranges.iter().map(|(_, len)| len).sum::<usize>(), buffer.len());
            let words = ranges.iter().flat_map(|&(start, len)| (start..start + len as u64).step_by(8));
            buffer.as_chunks_mut().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
            Ok(())
        }
    }

    fn runs(pages: &[(u64, u64)]) -> Vec<Run> {
        let mut runs: Vec<Run> =
            pages.iter().map(|&(start, end)| Run { start: start << 12, end: end << 12, offset: 0 }).collect();
        crate::kinds::mm::pages::lay_out(&mut runs);
        runs
    }

    fn check(folder: &str, runs: &[Run]) {
        let file = tempfile::tempfile_in(folder).unwrap();
        let mut told = 0;
        let mut count = |bytes| {
            told += bytes;
            Ok(())
        };
        let sums = write(&Addresses, runs, &file, true, &mut count).unwrap();
        assert_eq!(sums, Some(FileSums::read(&file).unwrap()));
        let (every_other, rest): (Vec<Run>, Vec<Run>) = runs.iter().partition(|run| run.start % 8192 == 0);
        let in_parts = tempfile::tempfile_in(folder).unwrap();
        write_some(&Addresses, &rest, &in_parts, &mut count).unwrap();
        write_some(&Addresses, &every_other, &in_parts, &mut count).unwrap();
        assert_eq!(told, 2 * file.metadata().unwrap().len());
        for run in runs {
            let mut bytes = vec![0; run.len() as usize];
            for file in [&file, &in_parts] {
                file.read_exact_at(&mut bytes, run.offset).unwrap();
                let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
                assert!(words.eq((run.start..run.end).step_by(8)), "{run:?} in {folder}");
            }
        }
    }

    #[test]
    fn every_page_gets_to_its_place() {
        let scattered: Vec<(u64, u64)> = (1..2000).map(|i| (i * 7, i * 7 + 1 + i % 5)).collect();
        for folder in ["/dev/shm", "/tmp"] {
            check(folder, &runs(&[]));
            check(folder, &runs(&[(1, 2)]));
            check(folder, &runs(&[(5, 3000), (4000, 4001), (5000, 7000)]));
            check(folder, &runs(&scattered));
        }
    }

    #[test]
    fn what_costs_too_much_is_left_and_tried_again() {
        let tries_of = |cost: Duration| {
            let huge = HugePages::new();
            (0..1000).filter(|_| huge.are_worth_it()).inspect(|_| huge.took(cost)).count()
        };
        assert_eq!(tries_of(PATIENCE / 5), 1000);
        let tries = tries_of(PATIENCE * 5);
        assert!((10..60).contains(&tries), "{tries}");
    }

    #[test]
    fn who_is_told_may_end_it() {
        let file = tempfile::tempfile().unwrap();
        let mut end = |_| Err(Problem::new(SysError { call: "end", errno: Errno::EINTR }));
        assert!(write(&Addresses, &runs(&[(1, 30_000)]), &file, true, &mut end).is_err());
    }
}
