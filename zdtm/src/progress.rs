//! Everything the runner prints: on a terminal one line that is updated, elsewhere plain lines.

use std::io::{IsTerminal as _, Write as _};

use crate::entry::Flavor;
use crate::outcome::{Failure, Outcome, Record, Totals};

/// The display of a run.
#[derive(Debug)]
pub struct Progress {
    updates: bool,
    running: Vec<String>,
}

impl Progress {
    /// Looks where the output goes.
    pub fn new() -> Self {
        Self { updates: std::io::stdout().is_terminal(), running: Vec::new() }
    }

    /// A trial has started.
    pub fn started(&mut self, name: &str, done: usize, all: usize) {
        self.running.push(name.to_owned());
        self.status(done, all);
    }

    /// A trial has ended.
    pub fn ended(&mut self, record: &Record, rerun: &str, totals: Totals, all: usize) {
        let name = record.label();
        self.running.retain(|running| *running != name);
        match &record.outcome {
            Outcome::Failed(failure) => self.above(&failed(record, failure, rerun)),
            Outcome::Passed if !self.updates => self.above(&format!("pass {name} ({:.2} s)", record.seconds)),
            Outcome::Skipped(reason) if !self.updates => self.above(&format!("skip {name}: {reason}")),
            Outcome::Passed | Outcome::Skipped(_) => {}
        }
        self.status(totals.all(), all);
    }

    /// The last line.
    pub fn finish(&self, totals: Totals) {
        self.above(&totals.to_string());
    }

    fn status(&self, done: usize, all: usize) {
        if self.updates {
            let mut line = format!("[{done}/{all}] {}", self.running.join(", "));
            // Longer than the terminal would scroll instead of being updated.
            line.truncate(line.floor_char_boundary(78));
            emit(&format!("\r\x1b[K{line}"));
        }
    }

    fn above(&self, text: &str) {
        let clear = if self.updates { "\r\x1b[K" } else { "" };
        emit(&format!("{clear}{text}\n"));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes text to the standard output as it is.
pub fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe (`zdtm list | head`) is the reader's wish.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes an error to the standard error.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

fn failed(record: &Record, failure: &Failure, rerun: &str) -> String {
    let mut lines = vec![
        format!("FAIL {} ({:.2} s): {}", record.label(), record.seconds, record.about),
        format!("phase: {}", failure.phase.as_str()),
    ];
    lines.extend(failure.message.lines().map(str::to_owned));
    let flavor = match record.flavor {
        Flavor::Host => String::new(),
        flavor => format!(" --flavor {}", flavor.as_str()),
    };
    lines.push(format!("rerun: {}{flavor}", rerun.replace("NAME", &record.name)));
    lines.extend(record.kept.as_ref().map(|dir| format!("kept: {}", dir.display())));
    lines.join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Phase;

    #[test]
    fn a_failure_says_all_that_is_needed() {
        let failure = Failure {
            phase: Phase::Restore,
            message: "restore exited with 1\n(00.012345) Error (engine/src/x.rs:1): no".to_owned(),
        };
        let record = Record {
            name: "static/pipe00".to_owned(),
            flavor: Flavor::Host,
            about: "Data stays in a pipe.".to_owned(),
            seconds: 0.5,
            outcome: Outcome::Failed(failure.clone()),
            kept: Some("/tmp/zdtm-x/static_pipe00".into()),
        };
        insta::assert_snapshot!(failed(&record, &failure, "zdtm run NAME --iters 2"));
    }
}
