//! Facts of mounts, which a target in a mount namespace of its own has for itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// The mounts of the namespace that we are in, each by its place, without the numbers that the kernel gives to new ones.
pub(super) fn read() -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string("/proc/1/mountinfo").context("mountinfo")?;
    let fact = |(at, line): (usize, &str)| {
        let words: Vec<&str> = line.split(' ').collect();
        // Numbers of the mount, of its parent and of its device (proc_pid_mountinfo(5)).
        (format!("mount {at}"), words.get(3..).unwrap_or_default().join(" "))
    };
    Ok(text.lines().enumerate().map(fact).collect())
}

/// Names of mounts by their numbers, where a restored target has others: in a mount namespace of its own, whose init is the
/// root of the tree.
pub(super) fn names(pid: i32, root: i32) -> BTreeMap<String, String> {
    if root != 1 {
        return BTreeMap::new();
    }
    // A task with another root sees a part of them only.
    let texts =
        [1, pid].map(|pid| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default());
    let mut names = BTreeMap::new();
    for text in texts {
        for line in text.lines() {
            let at = names.len();
            let number = line.split(' ').next().unwrap_or_default().to_owned();
            names.entry(number).or_insert_with(|| format!("#{at}"));
        }
    }
    names
}
