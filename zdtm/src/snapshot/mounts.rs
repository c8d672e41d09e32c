//! Facts of mounts, which a target in a mount namespace of its own has for itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// The mounts of the namespace that we are in, each by its place, without the numbers that the kernel gives to new ones.
pub(super) fn read() -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string("/proc/1/mountinfo").context("mountinfo")?;
    let mut groups = Vec::new();
    let mut facts = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        // Numbers of the mount, of its parent and of its device (proc_pid_mountinfo(5)).
        let words = line.split(' ').skip(3).map(|word| with_own_number(word, &mut groups));
        facts.insert(format!("mount {at}"), words.collect::<Vec<_>>().join(" "));
    }
    Ok(facts)
}

/// Peer groups get numbers in the order in which they are seen.
fn with_own_number(word: &str, groups: &mut Vec<String>) -> String {
    let Some((kind @ ("shared" | "master" | "propagate_from"), group)) = word.split_once(':') else {
        return word.to_owned();
    };
    let known = groups.iter().position(|known| known == group).unwrap_or_else(|| {
        groups.push(group.to_owned());
        groups.len() - 1
    });
    format!("{kind}:#{known}")
}

/// Names of mounts by their numbers, where a restored target has others: in a mount namespace of its own, whose init is the
/// root of the tree, or of a task of its own.
pub(super) fn names(pid: i32, root: i32) -> BTreeMap<String, String> {
    let space = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if root != 1 && space(pid) == space(root) {
        return BTreeMap::new();
    }
    // A task with another root sees a part of them only.
    let text = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let texts = [1, pid].map(|of| if of == pid || root == 1 { text(of) } else { String::new() });
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
