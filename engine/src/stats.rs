//! Statistics of a dump and of a restore: `stats-dump` and `stats-restore` in the work directory, which callers read, and
//! the text that `--display-stats` prints. Times are in microseconds.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use proto::ImageType;
use proto::messages::{DumpStatsEntry, RestoreStatsEntry, StatsEntry};

use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::ImageError;

/// What a dump cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DumpStats {
    entry: DumpStatsEntry,
}

/// What a restore cost.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreStats {
    entry: RestoreStatsEntry,
    begun: Instant,
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl DumpStats {
    /// The tree is stopped; stopping began at `start`.
    pub(crate) fn frozen_after(&mut self, start: Instant) {
        self.entry.freezing_time = micros(start.elapsed());
    }

    /// The tree is no longer needed; it was stopped since `frozen`.
    pub(crate) fn thawed_after(&mut self, frozen: Instant) {
        self.entry.frozen_time = micros(frozen.elapsed());
    }

    /// That many pages were looked at.
    pub(crate) fn pages_scanned(&mut self, pages: u64, took: Duration) {
        self.entry.pages_scanned += pages;
        self.entry.memdump_time += micros(took);
    }

    /// That many pages were written.
    pub(crate) fn pages_written(&mut self, pages: u64, took: Duration) {
        self.entry.pages_written += pages;
        self.entry.memwrite_time += micros(took);
    }

    /// Writes `stats-dump`.
    pub(crate) fn write(&self, work_dir: &Path) -> Result<(), Problem> {
        let entry = StatsEntry { dump: Some(self.entry), restore: None };
        write(work_dir, &proto::catalogue::STATS_DUMP, &entry)
    }
}

impl fmt::Display for DumpStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.entry;
        writeln!(f, "Displaying dump stats:")?;
        writeln!(f, "Freezing time: {} us", e.freezing_time)?;
        writeln!(f, "Frozen time: {} us", e.frozen_time)?;
        writeln!(f, "Memory dump time: {} us", e.memdump_time)?;
        writeln!(f, "Memory write time: {} us", e.memwrite_time)?;
        writeln!(f, "Memory pages scanned: {} ({:#x})", e.pages_scanned, e.pages_scanned)?;
        writeln!(f, "Memory pages written: {} ({:#x})", e.pages_written, e.pages_written)
    }
}

impl RestoreStats {
    /// The restore begins now.
    pub(crate) fn begin() -> Self {
        Self { entry: RestoreStatsEntry::default(), begun: Instant::now() }
    }

    /// All tasks exist; making them began at `start`.
    pub(crate) fn forked_after(&mut self, start: Instant) {
        self.entry.forking_time = micros(start.elapsed());
    }

    /// So many pages were filled in.
    pub(crate) fn pages(&mut self, restored: u64) {
        self.entry.pages_restored = Some(self.entry.pages_restored.unwrap_or(0) + restored);
    }

    /// The tree runs.
    pub(crate) fn finished(&mut self) {
        self.entry.restore_time = micros(self.begun.elapsed());
    }

    /// Writes `stats-restore`.
    pub(crate) fn write(&self, work_dir: &Path) -> Result<(), Problem> {
        let entry = StatsEntry { dump: None, restore: Some(self.entry) };
        write(work_dir, &proto::catalogue::STATS_RESTORE, &entry)
    }
}

impl fmt::Display for RestoreStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.entry;
        let pages = e.pages_restored.unwrap_or(0);
        writeln!(f, "Displaying restore stats:")?;
        writeln!(f, "Forking time: {} us", e.forking_time)?;
        writeln!(f, "Restore time: {} us", e.restore_time)?;
        writeln!(f, "Memory pages restored: {pages} ({pages:#x})")
    }
}

fn write(work_dir: &Path, image: &'static ImageType, entry: &StatsEntry) -> Result<(), Problem> {
    let path = work_dir.join(image.file_name(0));
    let about = || Object::Path(path.clone());
    let step = "write statistics";
    let file = File::create(&path).map_err(SysError::io("open")).about(about).while_trying_to(step)?;
    let write = || {
        let mut writer = proto::Writer::create(BufWriter::new(file), image)?;
        writer.entry(entry)?;
        let offset = writer.offset();
        writer.finish()?.flush().map_err(|source| proto::Error::Write { offset, source })
    };
    write().map_err(ImageError::from).about(about).while_trying_to(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_told_in_words() {
        let mut stats = DumpStats::default();
        stats.pages_scanned(1000, Duration::from_micros(30));
        stats.pages_written(16, Duration::from_micros(400));
        insta::assert_snapshot!(stats, @r"
        Displaying dump stats:
        Freezing time: 0 us
        Frozen time: 0 us
        Memory dump time: 30 us
        Memory write time: 400 us
        Memory pages scanned: 1000 (0x3e8)
        Memory pages written: 16 (0x10)
        ");
    }

    #[test]
    fn both_files_say_which_they_are() {
        let dir = tempfile::tempdir().unwrap();
        DumpStats::default().write(dir.path()).unwrap();
        let mut restore = RestoreStats::begin();
        restore.pages(3);
        restore.write(dir.path()).unwrap();
        let read = |image: &ImageType| -> StatsEntry {
            let file = File::open(dir.path().join(image.file_name(0))).unwrap();
            proto::Reader::open(file, image).unwrap().required().unwrap()
        };
        assert!(read(&proto::catalogue::STATS_DUMP).dump.is_some());
        let restored = read(&proto::catalogue::STATS_RESTORE).restore.unwrap();
        assert_eq!(restored.pages_restored, Some(3));
    }
}
