//! What the outside sees of a process tree, as plain facts that can be compared.
//!
//! A fact is a subject ("task 42 fd 3 flags") and a text. What changes by itself between two looks at an idle process
//! is left out where it is read, each with its reason; an entry may name more (`moves`).

mod fds;
mod maps;
mod mounts;
pub mod pss;
mod task;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::entry::{Entry, Moves};
use crate::procfs;

/// Which parts of the outside view are read.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    tasks: bool,
    files: bool,
    positions: bool,
    maps: bool,
    cgroups: bool,
}

impl Scope {
    /// What can be compared for an entry.
    pub fn of(entry: &Entry) -> Self {
        let stays = |part| !entry.moves.contains(&part);
        Self {
            tasks: stays(Moves::Tasks),
            files: stays(Moves::Files),
            // A program of the user's goes on with its work between two looks.
            positions: stays(Moves::Positions) && entry.workload.is_some(),
            maps: stays(Moves::Maps),
            cgroups: stays(Moves::Cgroups),
        }
    }
}

/// The facts of a tree, and its members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    facts: BTreeMap<String, String>,
    /// Process id and start time of each member.
    pub members: Vec<(i32, String)>,
}

impl Snapshot {
    /// Looks at a tree.
    pub fn take(root: i32, scope: Scope) -> Result<Self> {
        let mut pids = vec![root];
        pids.extend(procfs::descendants(root));
        let mut facts = Facts::default();
        let mut members = Vec::new();
        for pid in pids {
            let whole = pid == root || scope.tasks;
            match look(&mut facts, pid, root, scope, whole) {
                Ok(start_time) => members.push((pid, start_time)),
                // Where tasks come and go, one of them may just have gone.
                Err(_) if !whole => {}
                Err(error) => return Err(error.context(format!("cannot look at task {pid}"))),
            }
        }
        Ok(Self { facts: facts.map, members })
    }

    /// Looks at a tree in namespaces of its own from within, where its root is the init.
    pub fn take_inside(root: i32, scope: Scope) -> Result<Self> {
        const INIT: i32 = 1;
        let facts = crate::cell::look_inside(root, || {
            let mut facts = Self::take(INIT, scope)?.facts;
            facts.extend(mounts::read()?);
            // Restored namespaces have other numbers than those that were; the same tasks are in the same.
            let mut numbers = Facts::default();
            for (subject, text) in facts.iter_mut().filter(|(subject, _)| subject.contains(" namespace ")) {
                debug_assert!(subject.starts_with("task "));
                *text = numbers.link(text);
            }
            Ok(facts)
        })?;
        let all = std::iter::once(root).chain(procfs::descendants(root));
        let members = all.filter_map(|pid| Some((pid, procfs::stat(pid)?.start_time().to_owned()))).collect();
        Ok(Self { facts, members })
    }

    /// The members that still exist, apart from zombies that nobody of the tree waits for.
    pub fn still_there(&self) -> Vec<i32> {
        let is_there = |(pid, start): &&(i32, String)| {
            procfs::stat(*pid).is_some_and(|stat| stat.start_time() == start.as_str())
        };
        self.members.iter().filter(is_there).map(|(pid, _)| *pid).collect()
    }
}

fn look(facts: &mut Facts, pid: i32, root: i32, scope: Scope, whole: bool) -> Result<String> {
    let stat = procfs::stat(pid).context("it is gone")?;
    ensure!(pid != root || stat.state() != "Z", "the root task has ended");
    if whole {
        task::process(facts, pid, root, &stat)?;
        if !scope.cgroups {
            facts.map.remove(&format!("task {pid} cgroup"));
        }
        if stat.state() != "Z" {
            task::threads(facts, pid, scope.tasks)?;
            if scope.files {
                fds::read(facts, pid, scope.positions, &mounts::names(pid, root))?;
            }
            if scope.maps {
                maps::read(facts, pid)?;
            }
        }
    }
    Ok(stat.start_time().to_owned())
}

/// The facts while they are gathered.
#[derive(Debug, Default)]
struct Facts {
    map: BTreeMap<String, String>,
    /// Kernel object numbers in the order in which they were met: a restored pipe has another inode number, but the same
    /// descriptors share it.
    objects: Vec<String>,
}

impl Facts {
    fn add(&mut self, subject: String, text: impl Into<String>) {
        self.map.insert(subject, text.into());
    }

    /// Replaces the number in `pipe:[123]` by the order in which it was met, as that in `/tmp/#123 (deleted)`, which is the
    /// kernel's name for a file without one.
    fn link(&mut self, link: &str) -> String {
        let unnamed = link.strip_suffix(" (deleted)").and_then(|rest| rest.rsplit_once("/#"));
        if let Some((folder, number)) = unnamed
            && number.parse::<u64>().is_ok()
        {
            return format!("{folder}/#{} (deleted)", self.order(number));
        }
        let number = link.strip_suffix(']').and_then(|rest| rest.rsplit_once(":["));
        let Some((kind, number)) = number.filter(|(_, number)| number.parse::<u64>().is_ok()) else {
            return link.to_owned();
        };
        format!("{kind}:[#{}]", self.order(number))
    }

    fn order(&mut self, number: &str) -> usize {
        let known = self.objects.iter().position(|object| object == number);
        known.unwrap_or_else(|| {
            self.objects.push(number.to_owned());
            self.objects.len() - 1
        })
    }
}

/// What differs, one line each; equal snapshots give no line.
pub fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (subject, was) in &before.facts {
        match after.facts.get(subject) {
            None => lines.push(format!("{subject}: was {}, is missing", shown(was))),
            Some(is) if is != was => {
                lines.push(format!("{subject}: was {}, is {}", shown(was), shown(is)));
            }
            Some(_) => {}
        }
    }
    let new = after.facts.iter().filter(|(subject, _)| !before.facts.contains_key(*subject));
    lines.extend(new.map(|(subject, is)| format!("{subject}: is new, {}", shown(is))));
    lines
}

fn shown(text: &str) -> String {
    const MOST: usize = 200;
    if text.is_empty() {
        return "empty".to_owned();
    }
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(facts: &[(&str, &str)]) -> Snapshot {
        let facts = facts.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        Snapshot { facts, members: Vec::new() }
    }

    #[test]
    fn differences_are_readable() {
        let before =
            snapshot(&[("task 7 fd 3 flags", "02"), ("task 7 fd 4 link", "/a"), ("task 7 comm", "x")]);
        let after =
            snapshot(&[("task 7 fd 3 flags", "04002"), ("task 7 comm", "x"), ("task 7 fd 5 link", "")]);
        insta::assert_snapshot!(differences(&before, &after).join("\n"));
        assert!(differences(&before, &before).is_empty());
    }

    #[test]
    fn object_numbers_become_an_order() {
        let mut facts = Facts::default();
        assert_eq!(facts.link("pipe:[77]"), "pipe:[#0]");
        assert_eq!(facts.link("socket:[5]"), "socket:[#1]");
        assert_eq!(facts.link("pipe:[77]"), "pipe:[#0]");
        assert_eq!(facts.link("anon_inode:[eventfd]"), "anon_inode:[eventfd]");
        assert_eq!(facts.link("/tmp/a"), "/tmp/a");
        assert_eq!(facts.link("/tmp/#9 (deleted)"), "/tmp/#2 (deleted)");
    }

    #[test]
    fn an_idle_process_does_not_change() {
        // Positions of files that others have open, too, may change at any time.
        let nothing = || std::process::Stdio::null();
        let mut command = std::process::Command::new("sleep");
        command.arg("20").stdin(nothing()).stdout(nothing()).stderr(nothing());
        let mut child = command.spawn().unwrap();
        let pid = child.id() as i32;
        let scope = Scope { tasks: true, files: true, positions: true, maps: true, cgroups: true };
        // The child is this program until it has executed the other.
        while procfs::stat(pid).unwrap().comm != "sleep" || procfs::stat(pid).unwrap().state() != "S" {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let before = Snapshot::take(pid, scope).unwrap();
        let after = Snapshot::take(pid, scope).unwrap();
        assert_eq!(differences(&before, &after), Vec::<String>::new());
        assert_eq!(before.still_there(), [pid]);
        assert!(before.facts.contains_key(&format!("task {pid} fd 0 link")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(before.still_there().is_empty());
    }
}
