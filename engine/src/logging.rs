//! The log: one line for each record, in the form that callers of CRIU read.
//!
//! `(00.012345) Error (engine/src/dump.rs:123): text`: the seconds since the start, the tag of an error or warning with
//! its place in the source, the text. Up to level 2 there is no time, as there are few lines. Each line is one
//! write(2), so that lines of several processes with one log do not mix.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::SysError;
use crate::options::{LogLevel, LogOptions};

/// Whether this process logs to a file, so that what is said on standard error is to be said there too.
static TO_FILE: AtomicBool = AtomicBool::new(false);

/// Whether the log is a file.
pub fn is_file() -> bool {
    TO_FILE.load(Ordering::Relaxed)
}

/// Creates the log file, if there is one, and makes the log the one of this process.
///
/// A second call in the same process keeps the first log: only tests have a second one.
pub fn start(options: &LogOptions) -> Result<(), SysError> {
    let sink = match &options.file {
        Some(path) => Sink::File(create(path)?),
        None => Sink::Stderr,
    };
    let logger = Logger { started: SystemTime::now(), timestamps: options.level >= LogLevel::Info, sink };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(filter(options.level));
        TO_FILE.store(options.file.is_some(), Ordering::Relaxed);
    }
    Ok(())
}

fn create(path: &Path) -> Result<File, SysError> {
    File::create(path).map_err(SysError::io("open"))
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Silent => LevelFilter::Off,
        LogLevel::Errors => LevelFilter::Error,
        LogLevel::Warnings => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    }
}

#[derive(Debug)]
struct Logger {
    /// By the clock that is the same in all time namespaces, since one log may be of processes in several.
    started: SystemTime,
    timestamps: bool,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    File(File),
    Stderr,
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format_line(self.timestamps.then(|| self.started.elapsed().unwrap_or_default()), record);
        // A log that cannot be written must not fail the work, and there is nowhere to say so.
        let _ignored = match &self.sink {
            Sink::File(file) => (&mut &*file).write(line.as_bytes()),
            Sink::Stderr => io::stderr().write(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

fn format_line(elapsed: Option<Duration>, record: &Record<'_>) -> String {
    let mut line = String::with_capacity(120);
    if let Some(elapsed) = elapsed {
        // Writing to a String does not fail.
        let _infallible = write!(line, "({:02}.{:06}) ", elapsed.as_secs(), elapsed.subsec_micros());
    }
    let tag = match record.level() {
        Level::Error => Some("Error"),
        Level::Warn => Some("Warn "),
        Level::Info | Level::Debug | Level::Trace => None,
    };
    if let Some(tag) = tag {
        let (file, number) = (record.file().unwrap_or("?"), record.line().unwrap_or(0));
        let _infallible = write!(line, "{tag} ({file}:{number}): ");
    }
    let _infallible = writeln!(line, "{}", record.args());
    line
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Some(12_345), Level::Error, "(00.012345) Error (engine/src/x.rs:123): text\n")]
    #[case(Some(75_000_001), Level::Warn, "(75.000001) Warn  (engine/src/x.rs:123): text\n")]
    #[case(Some(0), Level::Info, "(00.000000) text\n")]
    #[case(None, Level::Error, "Error (engine/src/x.rs:123): text\n")]
    fn lines_have_the_form_callers_read(
        #[case] micros: Option<u64>,
        #[case] level: Level,
        #[case] line: &str,
    ) {
        let args = format_args!("text");
        let record =
            Record::builder().level(level).file(Some("engine/src/x.rs")).line(Some(123)).args(args).build();
        assert_eq!(format_line(micros.map(Duration::from_micros), &record), line);
    }

    #[test]
    fn a_log_that_cannot_be_created_is_an_error() {
        let file = Some("/nonexistent/dump.log".into());
        let error = start(&LogOptions { level: LogLevel::Debug, file }).unwrap_err();
        assert_eq!(error.errno, nix::errno::Errno::ENOENT);
    }
}
