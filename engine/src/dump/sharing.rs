//! What tasks share with each other: address space, descriptor table, directories, signal handlers.
//!
//! `kcmp(2)` tells. It gives an order too, so each task is looked up among those seen before. Where it was seen of all tasks
//! in which places the kernel has their things, nobody need be asked.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::PathBuf;

use proto::messages::TaskKobjIdsEntry;

use super::places::Places;
use super::task::RelationRefusal;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::procfs::link::NamespaceType;
use crate::sys::process::{Kcmp, kcmp};

/// Ids of what a task has, and which of it no task before had.
#[derive(Debug)]
pub(super) struct Shared {
    /// As images hold them: equal ids mean shared.
    pub ids: TaskKobjIdsEntry,
    /// Whether it is the first with this address space.
    pub first_vm: bool,
    /// Whether it is the first with this descriptor table.
    pub first_files: bool,
}

/// Which tasks were seen, and the ids they got, for each thing that tasks may share.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    vm: Seen,
    files: Seen,
    fs: Seen,
    sighand: Seen,
    /// It is known of every task where its things are.
    has_places: bool,
    tasks: u32,
    /// Ids of the namespaces, which all tasks have in common, but for mount namespaces.
    namespaces: TaskKobjIdsEntry,
    /// Mount namespaces of the tree, by what the links in `/proc` say, and their ids.
    mounts: Vec<(PathBuf, u32)>,
}

impl Sharing {
    /// Of these tasks none was seen; all are in namespaces with these ids, or in one of these mount namespaces.
    pub(super) fn new(
        tasks: &[Option<TaskFacts>],
        namespaces: TaskKobjIdsEntry,
        mounts: Vec<(PathBuf, u32)>,
    ) -> Self {
        let has_places = tasks.iter().flatten().all(|facts| facts.places.is_some());
        Self { has_places, namespaces, mounts, ..Self::default() }
    }

    /// Ids of a task's resources.
    pub(super) fn ids(&mut self, facts: &TaskFacts) -> Result<Shared, Problem> {
        let pid = facts.pid;
        self.tasks += 1;
        // The first id of each sort is the dumping program's own, by custom of the format.
        let new = self.tasks + 1;
        let step = "find out what it shares with others";
        let places = facts.places.as_deref().filter(|_| self.has_places);
        let find = |seen: &mut Seen, kind, place: fn(&Places) -> u64| match places.map(place) {
            Some(place) => Ok(seen.look_up(place, new)),
            None => seen.compare(kind, pid, new),
        };
        let (vm_id, first_vm) = find(&mut self.vm, Kcmp::Vm, |places| places.vm).while_trying_to(step)?;
        let (files_id, first_files) =
            find(&mut self.files, Kcmp::Files, |places| places.files).while_trying_to(step)?;
        let (fs_id, _) = find(&mut self.fs, Kcmp::Fs, |places| places.fs).while_trying_to(step)?;
        let (sighand_id, _) =
            find(&mut self.sighand, Kcmp::Sighand, |places| places.sighand).while_trying_to(step)?;
        let mounts = facts.namespaces.of(NamespaceType::Mnt);
        let own = self.mounts.iter().find(|(link, _)| Some(link.as_path()) == mounts).map(|(_, id)| *id);
        let mnt_ns_id = own.or(self.namespaces.mnt_ns_id);
        let ids = TaskKobjIdsEntry { vm_id, files_id, fs_id, sighand_id, mnt_ns_id, ..self.namespaces };
        Ok(Shared { ids, first_vm, first_files })
    }
}

/// The tasks that have something first, and its ids.
#[derive(Debug, Default)]
struct Seen {
    /// In the kernel's order.
    ordered: Vec<(i32, u32)>,
    /// By its place in the kernel.
    placed: HashMap<u64, u32>,
}

impl Seen {
    /// The id of a task's resource that is in this place, and whether it is new.
    fn look_up(&mut self, place: u64, new: u32) -> (u32, bool) {
        let id = *self.placed.entry(place).or_insert(new);
        (id, id == new)
    }

    /// The id of a task's resource, and whether it is new.
    fn compare(&mut self, kind: Kcmp, pid: i32, new: u32) -> Result<(u32, bool), SysError> {
        let mut failed = None;
        let place = self.ordered.binary_search_by(|(other, _)| {
            kcmp(kind, *other, pid).unwrap_or_else(|e| {
                failed = Some(e);
                Ordering::Equal
            })
        });
        if let Some(e) = failed {
            return Err(e);
        }
        match place {
            Ok(at) => Ok((self.ordered.get(at).map_or(new, |(_, id)| *id), false)),
            Err(at) => {
                self.ordered.insert(at, (pid, new));
                Ok((new, true))
            }
        }
    }
}

/// Threads that have a descriptor table or directories of their own (`unshare(2)`), which nothing restores.
pub(super) fn refuse_unshared_threads(facts: &TaskFacts, problems: &mut Vec<Problem>) {
    let kinds = [(Kcmp::Files, "descriptor table"), (Kcmp::Fs, "working directory, root and umask")];
    let places = |thread: &ThreadFacts| thread.seen.as_ref().map(|seen| (seen.places.files, seen.places.fs));
    let leaders = places(facts.leader());
    let others = facts.threads.iter().skip(1);
    for thread in others.filter(|thread| leaders.is_none() || places(thread) != leaders) {
        for (kind, what) in kinds {
            let problem = match kcmp(kind, facts.pid, thread.tid) {
                Ok(Ordering::Equal) => continue,
                Ok(_) => Problem::new(RelationRefusal::UnsharedThread(what)),
                Err(e) => Problem::new(e).step("find out what it shares with its process"),
            };
            problems.push(problem.object(Object::Thread { tid: thread.tid }));
        }
    }
}
