//! `/proc/timer_list`: all timers that the kernel has running (`kernel/time/timer_list.c`).

use super::ParseError;
use super::text::Lines;

const FILE: &str = "/proc/timer_list";
/// What is called when the timer of a sleep expires.
const WAKEUP: &[u8] = b", hrtimer_wakeup,";

/// The timer of somebody's sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timer {
    /// Nanoseconds of its clock at which it expires.
    pub expires: i64,
    /// What its clock is ahead of `CLOCK_MONOTONIC`.
    pub offset: i64,
}

/// The timers of all sleeps, and when that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerList {
    /// `CLOCK_MONOTONIC` of the initial time namespace.
    pub now: i64,
    /// In the order of processors, clocks and expiry.
    pub sleeps: Vec<Timer>,
}

/// Parses the text.
pub fn parse(text: &[u8]) -> Result<TimerList, ParseError> {
    let mut lines = Lines::new(FILE, text);
    let mut now = None;
    let mut offset = 0;
    let mut sleeps = Vec::new();
    while let Some(mut line) = lines.next() {
        if line.skip(b"now at ") {
            now = Some(line.decimal("the time")?);
        } else if line.skip(b"  .offset:") {
            // Printed as if it had no sign.
            let ahead: u64 = line.field("what a clock is ahead")?;
            offset = ahead as i64;
        } else if line.skip(b" #") && line.rest.windows(WAKEUP.len()).any(|part| part == WAKEUP) {
            let mut line = lines.require("when a timer expires")?;
            if !line.skip(b" # expires at ") {
                return Err(line.fail("when a timer expires"));
            }
            sleeps.push(Timer { expires: line.decimal("when a timer expires")?, offset });
        }
    }
    Ok(TimerList { now: now.ok_or_else(|| lines.fail("the time"))?, sleeps })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    const TEXT: &[u8] = b"Timer List Version: v0.10\nHRTIMER_MAX_CLOCK_BASES: 8\nnow at 1000 nsecs\n\ncpu: 0\n clock 0:\n\
        \x20 .base:       00000000c1145b81\n  .offset:     0 nsecs\nactive timers:\n\
        \x20#0: <0000000043c70bfb>, hrtimer_wakeup, S:01\n # expires at 1500-1550 nsecs [in 500 to 550 nsecs]\n\
        \x20#1: <0000000046d1fad9>, tick_nohz_handler, S:01\n # expires at 1600-1600 nsecs [in 600 to 600 nsecs]\n\
        \x20clock 2:\n  .offset:     18446744073709551606 nsecs\nactive timers:\n\
        \x20#0: <0000000043c70bfc>, hrtimer_wakeup, S:01\n # expires at 1700-1700 nsecs [in 700 to 700 nsecs]\n";

    #[test]
    fn sleeps_are_found() {
        let sleeps = vec![Timer { expires: 1500, offset: 0 }, Timer { expires: 1700, offset: -10 }];
        assert_eq!(parse(TEXT), Ok(TimerList { now: 1000, sleeps }));
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(parse(b"").unwrap_err().expected, "the time");
        let cut = b"now at 1 nsecs\n #0: <1>, hrtimer_wakeup, S:01\n";
        assert_eq!(parse(cut).unwrap_err().expected, "when a timer expires");
    }

    #[test]
    fn the_one_of_this_machine_is_read() {
        if let Ok(text) = std::fs::read("/proc/timer_list") {
            parse(&text).unwrap();
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_lines(lines in r"(now at | #0: , hrtimer_wakeup,| # expires at |  \.offset: |[0-9]|-|\n){0,30}") {
            let _ = parse(lines.as_bytes());
        }
    }
}
