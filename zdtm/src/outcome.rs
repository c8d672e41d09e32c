//! What came of an entry.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::entry::Flavor;

/// The step of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Files and setup commands.
    Setup,
    /// Starting the target.
    Start,
    /// Waiting until it is ready.
    Ready,
    /// Talking to it before the dump.
    Before,
    /// Reading the outside view.
    Snapshot,
    /// The engine's dump.
    Dump,
    /// Checking that the dumped tree is gone.
    Gone,
    /// The engine's restore.
    Restore,
    /// Comparing the outside view.
    Compare,
    /// The workload verifies itself, or the probes after the restore.
    Verify,
    /// Ending the target.
    Stop,
    /// Looking for leftovers.
    Leaks,
    /// The runner's own trouble.
    Runner,
}

impl Phase {
    /// The word that is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Before => "before",
            Self::Snapshot => "snapshot",
            Self::Dump => "dump",
            Self::Gone => "gone",
            Self::Restore => "restore",
            Self::Compare => "compare",
            Self::Verify => "verify",
            Self::Stop => "stop",
            Self::Leaks => "leaks",
            Self::Runner => "runner",
        }
    }
}

/// The result of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All as expected.
    Passed,
    /// Not run, with the reason.
    Skipped(String),
    /// Something went wrong.
    Failed(Failure),
}

/// Why an entry failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub phase: Phase,
    /// What; several lines.
    pub message: String,
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// The entry's name.
    pub name: String,
    /// Where it ran.
    pub flavor: Flavor,
    /// The entry's sentence.
    pub about: String,
    /// Wall time in seconds.
    pub seconds: f64,
    /// What came of it.
    pub outcome: Outcome,
    /// The kept directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

impl Record {
    /// Name and flavor.
    pub fn label(&self) -> String {
        self.flavor.label(&self.name)
    }
}

/// The counts of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Entries that passed.
    pub passed: usize,
    /// Entries that failed.
    pub failed: usize,
    /// Entries that were not run.
    pub skipped: usize,
}

impl Totals {
    /// Counts all records.
    pub fn of(records: &[Record]) -> Self {
        let mut totals = Self::default();
        for record in records {
            totals.count(&record.outcome);
        }
        totals
    }

    /// Counts one more outcome.
    pub fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
            Outcome::Failed(_) => self.failed += 1,
        }
    }

    /// All outcomes counted so far.
    pub fn all(self) -> usize {
        self.passed + self.failed + self.skipped
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_plain() {
        let mut totals = Totals::default();
        totals.count(&Outcome::Passed);
        totals.count(&Outcome::Skipped("not root".to_owned()));
        assert_eq!(totals.to_string(), "1 passed, 0 failed, 1 skipped");
    }
}
