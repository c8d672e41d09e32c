//! Statistics of a dump (`stats-dump` in the work directory), which callers read.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use proto::messages::{DumpStatsEntry, StatsEntry};

use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::ImageError;

/// What a dump cost; times in microseconds.
#[derive(Debug, Default)]
pub(super) struct Stats {
    entry: DumpStatsEntry,
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl Stats {
    /// The tree is stopped; stopping began at `start`.
    pub(super) fn frozen_after(&mut self, start: Instant) {
        self.entry.freezing_time = micros(start.elapsed());
    }

    /// The tree is no longer needed; it was stopped since `frozen`.
    pub(super) fn thawed_after(&mut self, frozen: Instant) {
        self.entry.frozen_time = micros(frozen.elapsed());
    }

    /// Pages were found, then written.
    pub(super) fn pages(&mut self, scanned: u64, written: u64, scanning: Duration, writing: Duration) {
        self.entry.pages_scanned += scanned;
        self.entry.pages_written += written;
        self.entry.memdump_time += micros(scanning);
        self.entry.memwrite_time += micros(writing);
    }

    /// Writes the file.
    pub(super) fn write(self, work_dir: &Path) -> Result<(), Problem> {
        let image = &proto::catalogue::STATS_DUMP;
        let path = work_dir.join(image.file_name(0));
        let about = || Object::Path(path.clone());
        let step = "write statistics";
        let file = File::create(&path).map_err(SysError::io("open")).about(about).while_trying_to(step)?;
        let write = || {
            let mut writer = proto::Writer::create(BufWriter::new(file), image)?;
            writer.entry(&StatsEntry { dump: Some(self.entry), restore: None })?;
            let offset = writer.offset();
            writer.finish()?.flush().map_err(|source| proto::Error::Write { offset, source })
        };
        write().map_err(ImageError::from).about(about).while_trying_to(step)
    }
}
