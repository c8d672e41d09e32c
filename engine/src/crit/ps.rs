//! The process tree.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use proto::messages::PstreeEntry;

use super::{CritError, ImageSet};

/// Writes the process tree as a table; children stand below their parents, indented.
pub fn ps(set: &ImageSet, output: &mut dyn Write) -> Result<(), CritError> {
    writeln!(output, "{:>7} {:>7} {:>7}   COMM", "PID", "PGID", "SID")?;
    for (depth, task) in in_tree_order(set.tasks()?) {
        let comm = set.comm(task.pid)?;
        writeln!(
            output,
            "{:>7} {:>7} {:>7}   {:indent$}{comm}",
            task.pid,
            task.pgid,
            task.sid,
            "",
            indent = 2 * depth
        )?;
    }
    Ok(())
}

/// Orders tasks so that each comes after its parent, with its depth.
///
/// Tasks whose parent is not in the tree are roots; so is the first of those that a damaged image ties in a ring.
fn in_tree_order(tasks: Vec<PstreeEntry>) -> Vec<(usize, PstreeEntry)> {
    /// A deeper tree would be wider than any screen.
    const DEEPEST: usize = 64;
    let pids: HashSet<u32> = tasks.iter().map(|task| task.pid).collect();
    let mut children: HashMap<u32, Vec<&PstreeEntry>> = HashMap::new();
    for task in tasks.iter().rev() {
        children.entry(task.ppid).or_default().push(task);
    }
    let roots = tasks.iter().filter(|task| !pids.contains(&task.ppid));
    let mut seen = HashSet::new();
    let mut ordered = Vec::new();
    for root in roots.chain(&tasks) {
        let mut stack = vec![(0, root)];
        while let Some((depth, task)) = stack.pop() {
            if !seen.insert(task.pid) {
                continue;
            }
            ordered.push((depth, task.clone()));
            let below = children.get(&task.pid).into_iter().flatten();
            stack.extend(below.map(|child| ((depth + 1).min(DEEPEST), *child)));
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(pid: u32, ppid: u32) -> PstreeEntry {
        PstreeEntry { pid, ppid, pgid: pid, sid: pid, threads: vec![pid] }
    }

    fn order(tasks: &[(u32, u32)]) -> Vec<(usize, u32)> {
        let tasks = tasks.iter().map(|(pid, ppid)| task(*pid, *ppid)).collect();
        in_tree_order(tasks).into_iter().map(|(depth, task)| (depth, task.pid)).collect()
    }

    #[test]
    fn children_follow_their_parents() {
        assert_eq!(order(&[(1, 0), (2, 1), (3, 1), (4, 2)]), [(0, 1), (1, 2), (2, 4), (1, 3)]);
    }

    #[test]
    fn rings_and_orphans_are_shown_once() {
        assert_eq!(order(&[(1, 2), (2, 1), (3, 9), (4, 4)]), [(0, 3), (0, 1), (1, 2), (0, 4)]);
    }
}
