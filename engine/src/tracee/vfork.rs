//! Threads that wait for a child made by `vfork(2)`, which has borrowed their memory.
//!
//! Such a thread sleeps in the kernel, where only the end of the child or its `execve(2)` wakes it (`wait_for_vfork_done` of
//! `kernel/fork.c`): nobody can stop it, see its registers or have it do anything. Mostly that takes a moment, and is waited for.

use crate::dump::inspect::read_text;
use crate::error::TaskName;
use crate::sys::process::{Kcmp, kcmp};

use super::freeze::task_name;
use super::memory::Memory;

/// The child that a thread waits for, if that is what it does.
pub(super) fn borrower(pid: i32, tid: i32) -> Option<TaskName> {
    let text = read_text(&format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    if !is_vfork(tid, &String::from_utf8_lossy(&text)) {
        return None;
    }
    let children = read_text(&format!("/proc/{pid}/task/{tid}/children")).ok()?;
    let children = String::from_utf8_lossy(&children).into_owned();
    let borrows = |child: &i32| kcmp(Kcmp::Vm, pid, *child).is_ok_and(std::cmp::Ordering::is_eq);
    // The youngest is the last (`children_seq_start` of `fs/proc/array.c`).
    let mut pids = children.split_ascii_whitespace().rev().filter_map(|pid| pid.parse().ok());
    task_name(pids.find(borrows)?)
}

/// Whether a call is one that makes a child and waits for it: its number and arguments, as `/proc/PID/syscall` shows them.
fn is_vfork(tid: i32, call: &str) -> bool {
    let mut words = call.split_ascii_whitespace();
    let number = words.next().and_then(|word| word.parse::<i64>().ok());
    let first = words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let flags = match (number, first) {
        (Some(libc::SYS_vfork), _) => return true,
        (Some(libc::SYS_clone), Some(flags)) => flags,
        // struct clone_args begins with the flags.
        (Some(libc::SYS_clone3), Some(address)) => {
            Memory::open(tid).and_then(|memory| memory.read_value(address)).unwrap_or(0)
        }
        _ => 0,
    };
    flags & libc::CLONE_VFORK as u64 != 0
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("58 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fcf", true)]
    #[case("56 0x4111 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fcf", true)]
    #[case("56 0x1200011 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fcf", false)]
    #[case("435 0x8 0x58 0x0 0x0 0x0 0x0 0x7ffd 0x7fcf", false)]
    #[case("running", false)]
    #[case("", false)]
    fn calls_are_told_apart(#[case] call: &str, #[case] expected: bool) {
        assert_eq!(is_vfork(std::process::id() as i32, call), expected);
    }
}
