//! `/proc/PID/timers`: the POSIX timers of a process (`show_timer` of `fs/proc/base.c`), the youngest first.

use super::ParseError;
use super::text::Lines;

const FILE: &str = "/proc/PID/timers";

/// A timer, as `timer_create(2)` made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Its id.
    pub id: i32,
    /// The signal that it sends.
    pub signal: i32,
    /// The word that goes with the signal (`sigev_value`).
    pub value: u64,
    /// How it notifies: `SIGEV_SIGNAL`, `SIGEV_NONE`, `SIGEV_THREAD`.
    pub notify: i32,
    /// The thread that gets the signal, where it is not the process (`SIGEV_THREAD_ID`), in the pid namespace of the reader.
    pub thread: Option<i32>,
    /// Its clock, as the kernel knows it: CPU clocks are negative.
    pub clock: i32,
}

/// Parses the text.
pub fn parse(text: &[u8]) -> Result<Vec<Timer>, ParseError> {
    let mut lines = Lines::new(FILE, text);
    let mut timers = Vec::new();
    while let Some(mut line) = lines.next() {
        if !line.skip(b"ID: ") {
            return Err(line.fail("the id of a timer"));
        }
        let id = line.decimal("the id of a timer")?;
        line.end("nothing more on this line")?;

        let mut line = lines.require("a signal")?;
        line.skip(b"signal: ");
        let signal = line.decimal("the number of a signal")?;
        line.byte(b'/', "a slash")?;
        // %px pads, and older kernels printed 0x for small values.
        line.skip(b"0x");
        let value = line.hex("the word of a signal")?;
        line.end("nothing more on this line")?;

        let mut line = lines.require("a notification")?;
        line.skip(b"notify: ");
        let notify =
            [("signal", libc::SIGEV_SIGNAL), ("none", libc::SIGEV_NONE), ("thread", libc::SIGEV_THREAD)]
                .into_iter()
                .find_map(|(name, notify)| line.skip(name.as_bytes()).then_some(notify))
                .ok_or_else(|| line.fail("signal, none or thread"))?;
        line.byte(b'/', "a slash")?;
        let is_thread = line.skip(b"tid.");
        if !is_thread && !line.skip(b"pid.") {
            return Err(line.fail("pid or tid"));
        }
        let whom = line.decimal("a process or thread")?;
        line.end("nothing more on this line")?;

        let mut line = lines.require("a clock")?;
        line.skip(b"ClockID: ");
        let clock = line.decimal("a clock")?;
        line.end("nothing more on this line")?;
        timers.push(Timer { id, signal, value, notify, thread: is_thread.then_some(whom), clock });
    }
    Ok(timers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn timers_are_read() {
        let text = b"ID: 1000\nsignal: 40/0000000000001234\nnotify: signal/tid.21\nClockID: -2\n\
            ID: 3\nsignal: 0/0000000000000000\nnotify: none/pid.20\nClockID: 1\n";
        let first = Timer { id: 1000, signal: 40, value: 0x1234, notify: 0, thread: Some(21), clock: -2 };
        let second = Timer { id: 3, signal: 0, value: 0, notify: 1, thread: None, clock: 1 };
        assert_eq!(parse(text), Ok(vec![first, second]));
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn damage_is_named() {
        let cut = b"ID: 1\nsignal: 40/12\n";
        assert_eq!(parse(cut).unwrap_err().expected, "a notification");
        let strange = b"ID: 1\nsignal: 40/12\nnotify: pigeon/pid.1\nClockID: 1\n";
        assert_eq!(parse(strange).unwrap_err().expected, "signal, none or thread");
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_lines(lines in r"(ID: |signal: |notify: |ClockID: |signal/|none/|pid.|[0-9]|/|\n){0,30}") {
            let _ = parse(lines.as_bytes());
        }
    }
}
