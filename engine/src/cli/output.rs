//! All that is printed: what was asked for to standard output, errors to standard error (and to the log).

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::Failure;

/// Writes text to standard output. A reader who went away does not matter.
pub fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _reader_gone = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Says why a command failed, and turns its outcome into the exit code.
pub fn finish(outcome: Result<u8, Failure>) -> ExitCode {
    let failure = match outcome {
        Ok(code) => return ExitCode::from(code),
        Err(failure) => failure,
    };
    let text = failure.to_string();
    // One write, as for log lines. With standard error gone, the exit code still tells.
    let _stderr_gone = io::stderr().write_all(format!("error: {text}\n").as_bytes());
    if crate::logging::is_file() {
        text.lines().for_each(|line| log::error!("{line}"));
    }
    ExitCode::from(failure.exit_code())
}
