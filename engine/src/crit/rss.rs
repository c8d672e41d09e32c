//! How much memory of each task is in the images.

use std::io::Write;

use proto::catalogue;
use proto::messages::{PagemapEntry, PagemapHead};

use super::mems::{Range, name};
use super::{CritError, ImageSet};

/// Bytes of a page on the machines whose images we read.
const PAGE: u64 = 4096;

/// Writes how many pages of each task are in the images, and in which mappings.
pub fn rss(set: &ImageSet, output: &mut dyn Write) -> Result<(), CritError> {
    let files = set.files()?;
    for task in set.tasks()? {
        writeln!(output, "{} {}", task.pid, set.comm(task.pid)?)?;
        let Some(mut runs) = runs(set, task.pid)? else {
            continue;
        };
        runs.sort_by_key(|run| run.start);
        let total = |place: Place| -> u64 {
            runs.iter().filter(|run| run.place == place).fold(0, |sum, run| sum.saturating_add(run.pages()))
        };
        let (here, parent, lazy) = (total(Place::Here), total(Place::Parent), total(Place::Lazy));
        writeln!(
            output,
            "\t{} pages, {} KiB ({here} here, {parent} in the parent set, {lazy} fetched later)",
            here.saturating_add(parent).saturating_add(lazy),
            here.saturating_add(parent).saturating_add(lazy).saturating_mul(PAGE / 1024),
        )?;
        let mm = set.mm(task.pid)?.unwrap_or_default();
        for vma in &mm.vmas {
            let pages = pages_between(&runs, vma.start, vma.end);
            if pages > 0 {
                let line = format!("{} {pages:>8}", Range(vma));
                writeln!(output, "\t{}", format!("{line:<48} {}", name(vma, &mm, &files)).trim_end())?;
            }
        }
    }
    Ok(())
}

/// Where the contents of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    Parent,
    Lazy,
}

/// A run of pages.
#[derive(Debug)]
struct Run {
    start: u64,
    end: u64,
    place: Place,
}

impl Run {
    fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE
    }

    fn of(entry: &PagemapEntry) -> Self {
        // Bits of `flags`.
        const PARENT: u32 = 1;
        const LAZY: u32 = 2;
        const PRESENT: u32 = 4;
        let flags = entry.flags.unwrap_or(PRESENT);
        let place = if flags & PARENT != 0 || entry.in_parent() {
            Place::Parent
        } else if flags & PRESENT == 0 && flags & LAZY != 0 {
            Place::Lazy
        } else {
            Place::Here
        };
        let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
        Self { start: entry.vaddr, end: entry.vaddr.saturating_add(pages.saturating_mul(PAGE)), place }
    }
}

fn runs(set: &ImageSet, pid: u32) -> Result<Option<Vec<Run>>, CritError> {
    set.read(&catalogue::PAGEMAP, pid, |mut reader| {
        reader.required::<PagemapHead>()?;
        let mut runs = Vec::new();
        while let Some(entry) = reader.entry::<PagemapEntry>()? {
            runs.push(Run::of(&entry));
        }
        Ok(runs)
    })
}

/// Pages of sorted runs that lie between two addresses.
fn pages_between(runs: &[Run], start: u64, end: u64) -> u64 {
    let first = runs.partition_point(|run| run.end <= start);
    let inside = runs.iter().skip(first).take_while(|run| run.start < end);
    inside.fold(0u64, |sum, run| {
        sum.saturating_add(run.end.min(end).saturating_sub(run.start.max(start)) / PAGE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_the_ends_of_mappings() {
        let run = |start, pages| Run { start: start * PAGE, end: (start + pages) * PAGE, place: Place::Here };
        let runs = [run(1, 2), run(4, 4), run(10, 1)];
        assert_eq!(pages_between(&runs, 0, 20 * PAGE), 7);
        assert_eq!(pages_between(&runs, 2 * PAGE, 6 * PAGE), 3);
        assert_eq!(pages_between(&runs, 3 * PAGE, 4 * PAGE), 0);
        assert_eq!(pages_between(&runs, 9 * PAGE, u64::MAX), 1);
        assert_eq!(pages_between(&[], 0, u64::MAX), 0);
    }

    #[test]
    fn old_entries_are_understood() {
        let entry = PagemapEntry { vaddr: PAGE, compat_nr_pages: 3, ..PagemapEntry::default() };
        let run = Run::of(&entry);
        assert_eq!((run.pages(), run.place), (3, Place::Here));
        let run = Run::of(&PagemapEntry { in_parent: Some(true), nr_pages: Some(u64::MAX), ..entry });
        assert_eq!((run.end, run.place), (u64::MAX, Place::Parent));
    }
}
