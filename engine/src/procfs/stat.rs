//! `/proc/PID/stat`: identity, memory layout and scheduling of a task, on one line.
//!
//! Documented in proc_pid_stat(5). Addresses and the exit code read as 0 without permission to ptrace the task.

use super::ParseError;
use super::text::Line;

const FILE: &str = "/proc/PID/stat";

/// The fields, under the names that proc_pid_stat(5) gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    /// The command name, as it is: it may hold blanks, parentheses and newlines.
    pub comm: Vec<u8>,
    pub state: State,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    /// Device number of the controlling terminal, 0 for none.
    pub tty_nr: i32,
    /// Foreground process group of the terminal, -1 for none.
    pub tpgid: i32,
    /// The kernel's `PF_*` flags.
    pub flags: u32,
    pub utime: u64,
    pub stime: u64,
    pub priority: i64,
    pub nice: i32,
    pub num_threads: u32,
    /// Clock ticks between boot and start: with the pid, it tells a task from a later one with the same pid.
    pub starttime: u64,
    pub vsize: u64,
    /// In pages.
    pub rss: i64,
    pub start_code: u64,
    pub end_code: u64,
    pub start_stack: u64,
    pub exit_signal: i32,
    pub processor: i32,
    pub rt_priority: u32,
    pub policy: u32,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// In the form of waitpid(2).
    pub exit_code: i32,
}

/// The state letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Sleeping,
    DiskSleep,
    Stopped,
    TracingStop,
    Dead,
    Zombie,
    Parked,
    Idle,
}

impl State {
    pub(super) fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'R' => Self::Running,
            b'S' => Self::Sleeping,
            b'D' => Self::DiskSleep,
            b'T' => Self::Stopped,
            b't' => Self::TracingStop,
            b'X' => Self::Dead,
            b'Z' => Self::Zombie,
            b'P' => Self::Parked,
            b'I' => Self::Idle,
            _ => return None,
        })
    }
}

/// Parses the text of `/proc/PID/stat` or `/proc/PID/task/TID/stat`.
pub fn parse(text: &[u8]) -> Result<Stat, ParseError> {
    let mut line = Line::whole(FILE, text.strip_suffix(b"\n").unwrap_or(text));
    let pid = line.decimal("the pid")?;
    line.blanks();
    line.byte(b'(', "the command name in parentheses")?;
    let comm = take_comm(&mut line)?;
    line.blanks();
    let state = match line.word("the state letter")? {
        [letter] => State::from_letter(*letter).ok_or_else(|| line.fail("a known state letter"))?,
        _ => return Err(line.fail("one state letter")),
    };
    // Fields stand in the order of the file: struct fields are evaluated in the order in which they are written.
    Ok(Stat {
        pid,
        comm,
        state,
        ppid: line.field("the parent's pid (field 4)")?,
        pgrp: line.field("the process group (field 5)")?,
        session: line.field("the session (field 6)")?,
        tty_nr: line.field("the terminal's device (field 7)")?,
        tpgid: line.field("the terminal's process group (field 8)")?,
        flags: line.field("the flags (field 9)")?,
        utime: {
            skip(&mut line, 4)?; // minflt, cminflt, majflt, cmajflt
            line.field("utime (field 14)")?
        },
        stime: line.field("stime (field 15)")?,
        priority: {
            skip(&mut line, 2)?; // cutime, cstime
            line.field("the priority (field 18)")?
        },
        nice: line.field("the nice value (field 19)")?,
        num_threads: line.field("the number of threads (field 20)")?,
        starttime: {
            skip(&mut line, 1)?; // itrealvalue, always 0
            line.field("the start time (field 22)")?
        },
        vsize: line.field("vsize (field 23)")?,
        rss: line.field("rss (field 24)")?,
        start_code: {
            skip(&mut line, 1)?; // rsslim
            line.field("startcode (field 26)")?
        },
        end_code: line.field("endcode (field 27)")?,
        start_stack: line.field("startstack (field 28)")?,
        exit_signal: {
            skip(&mut line, 9)?; // kstkesp, kstkeip, four signal masks, wchan, nswap, cnswap
            line.field("the exit signal (field 38)")?
        },
        processor: line.field("the processor (field 39)")?,
        rt_priority: line.field("rt_priority (field 40)")?,
        policy: line.field("the policy (field 41)")?,
        start_data: {
            skip(&mut line, 3)?; // delayacct_blkio_ticks, guest_time, cguest_time
            line.field("start_data (field 45)")?
        },
        end_data: line.field("end_data (field 46)")?,
        start_brk: line.field("start_brk (field 47)")?,
        arg_start: line.field("arg_start (field 48)")?,
        arg_end: line.field("arg_end (field 49)")?,
        env_start: line.field("env_start (field 50)")?,
        env_end: line.field("env_end (field 51)")?,
        exit_code: line.field("the exit code (field 52)")?,
    })
}

/// The name ends at the last closing parenthesis: the fields behind it hold none, the name itself may.
fn take_comm(line: &mut Line<'_>) -> Result<Vec<u8>, ParseError> {
    let end = line.rest.iter().rposition(|b| *b == b')');
    let parts = end.and_then(|end| Some((line.rest.get(..end)?, line.rest.get(end + 1..)?)));
    let (comm, rest) = parts.ok_or_else(|| line.fail("the end of the command name"))?;
    line.rest = rest;
    Ok(comm.to_vec())
}

fn skip(line: &mut Line<'_>, fields: usize) -> Result<(), ParseError> {
    for _ in 0..fields {
        line.blanks();
        line.word("another field")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    const TAIL: &str = "R 6093 6094 4987 34816 -1 4194304 101 0 0 0 7 8 0 0 20 -5 1 0 121790 2998272 414 \
        18446744073709551615 94230550048768 94230550072873 140725874300448 0 0 0 0 0 0 0 0 0 17 1 3 2 0 0 0 \
        94230550088720 94230550090336 94231169024000 140725874301655 140725874301683 140725874301684 \
        140725874302954 9\n";

    #[rstest]
    #[case("head")]
    #[case("tmux: server")]
    #[case(") R 1 1 (")]
    #[case("a\nb")]
    #[case("")]
    fn any_command_name_is_read(#[case] comm: &str) {
        let stat = parse(format!("6097 ({comm}) {TAIL}").as_bytes()).unwrap();
        assert_eq!((stat.pid, stat.comm.as_slice()), (6097, comm.as_bytes()));
        assert_eq!((stat.state, stat.ppid, stat.pgrp, stat.session), (State::Running, 6093, 6094, 4987));
        assert_eq!((stat.tty_nr, stat.tpgid, stat.flags), (34816, -1, 4_194_304));
        assert_eq!((stat.utime, stat.stime, stat.priority, stat.nice), (7, 8, 20, -5));
        assert_eq!((stat.num_threads, stat.starttime, stat.vsize, stat.rss), (1, 121_790, 2_998_272, 414));
        assert_eq!((stat.start_code, stat.end_code), (94_230_550_048_768, 94_230_550_072_873));
        assert_eq!((stat.start_stack, stat.exit_signal), (140_725_874_300_448, 17));
        assert_eq!((stat.processor, stat.rt_priority, stat.policy), (1, 3, 2));
        assert_eq!((stat.start_data, stat.end_data), (94_230_550_088_720, 94_230_550_090_336));
        assert_eq!((stat.start_brk, stat.arg_start), (94_231_169_024_000, 140_725_874_301_655));
        assert_eq!((stat.arg_end, stat.env_start), (140_725_874_301_683, 140_725_874_301_684));
        assert_eq!((stat.env_end, stat.exit_code), (140_725_874_302_954, 9));
    }

    #[rstest]
    #[case("", "the pid")]
    #[case("12 head R", "the command name in parentheses")]
    #[case("12 (head R", "the end of the command name")]
    #[case("12 (head) Q 1", "a known state letter")]
    #[case("12 (head) R 1 2 3 0 -1 4194304", "another field")]
    fn a_broken_line_says_what_is_missing(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(parse(text.as_bytes()).unwrap_err().expected, expected);
    }

    #[test]
    fn our_own_line_is_read() {
        let stat = parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(stat.pid, i32::try_from(std::process::id()).unwrap());
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_damage(cut in 0..400_usize, byte in any::<u8>(), at in 0..400_usize) {
            let mut text = format!("6097 (head) {TAIL}").into_bytes();
            if let Some(b) = text.get_mut(at) { *b = byte; }
            text.truncate(cut);
            let _ = parse(&text);
        }
    }
}
