//! Memory that a tree takes up: anonymous and shared, in swap or not, what tasks share counted in proportion (`Pss` of
//! `/proc/PID/smaps_rollup`, proc_pid_smaps(5)). Pages of files are the page cache's, and there or not as it likes.

use std::fs;

/// What a restored tree may take up more: tables, and pages that a task writes as it goes on.
const SOME: u64 = 64;
/// The same, as a part of what it had.
const PART: u64 = 50;

/// Kilobytes that these processes take up.
pub fn of(members: &[(i32, String)]) -> u64 {
    members.iter().map(|(pid, _)| of_process(*pid)).sum()
}

fn of_process(pid: i32) -> u64 {
    // A zombie has none.
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines().filter_map(counted).sum()
}

fn counted(line: &str) -> Option<u64> {
    let (key, size) = line.split_once(':')?;
    let is_counted = matches!(key, "Pss_Anon" | "Pss_Shmem" | "SwapPss");
    is_counted.then(|| size.trim().trim_end_matches(" kB").parse().ok())?
}

/// Whether a tree takes up more than it did, apart from what is little: what it had and has, and how many tasks it has.
pub fn is_more(before: u64, after: u64, tasks: usize) -> bool {
    after > before + before / PART + SOME * tasks as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_do_not_count() {
        let text = "Rss: 9 kB\nPss: 8 kB\nPss_Anon:  5 kB\nPss_File: 2 kB\nPss_Shmem:  1 kB\n";
        assert_eq!(text.lines().filter_map(counted).sum::<u64>(), 6);
    }

    #[test]
    fn a_little_is_allowed() {
        assert!(!is_more(1000, 1084, 1) && is_more(1000, 1085, 1));
    }
}
