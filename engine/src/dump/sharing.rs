//! What tasks share with each other: address space, descriptor table, directories, signal handlers.
//!
//! `kcmp(2)` tells. It gives an order too, so each task is looked up among those seen before.

use std::cmp::Ordering;
use std::path::PathBuf;

use proto::messages::TaskKobjIdsEntry;

use super::task::RelationRefusal;
use crate::dump::inspect::TaskFacts;
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

/// Which tasks were seen, and the ids they got, in the order of each thing that tasks may share.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    vm: Vec<(i32, u32)>,
    files: Vec<(i32, u32)>,
    fs: Vec<(i32, u32)>,
    sighand: Vec<(i32, u32)>,
    tasks: u32,
    /// Ids of the namespaces, which all tasks have in common, but for mount namespaces.
    namespaces: TaskKobjIdsEntry,
    /// Mount namespaces of the tree, by what the links in `/proc` say, and their ids.
    mounts: Vec<(PathBuf, u32)>,
}

impl Sharing {
    /// No task was seen; all will be in namespaces with these ids, or in one of these mount namespaces.
    pub(super) fn new(namespaces: TaskKobjIdsEntry, mounts: Vec<(PathBuf, u32)>) -> Self {
        Self { namespaces, mounts, ..Self::default() }
    }

    /// Ids of a task's resources.
    pub(super) fn ids(&mut self, facts: &TaskFacts) -> Result<Shared, Problem> {
        let pid = facts.pid;
        self.tasks += 1;
        // The first id of each sort is the dumping program's own, by custom of the format.
        let new = self.tasks + 1;
        let step = "find out what it shares with others";
        let (vm_id, first_vm) = find(&mut self.vm, Kcmp::Vm, pid, new).while_trying_to(step)?;
        let (files_id, first_files) = find(&mut self.files, Kcmp::Files, pid, new).while_trying_to(step)?;
        let (fs_id, _) = find(&mut self.fs, Kcmp::Fs, pid, new).while_trying_to(step)?;
        let (sighand_id, _) = find(&mut self.sighand, Kcmp::Sighand, pid, new).while_trying_to(step)?;
        let mounts = facts.namespaces.of(NamespaceType::Mnt);
        let own = self.mounts.iter().find(|(link, _)| Some(link.as_path()) == mounts).map(|(_, id)| *id);
        let mnt_ns_id = own.or(self.namespaces.mnt_ns_id);
        let ids = TaskKobjIdsEntry { vm_id, files_id, fs_id, sighand_id, mnt_ns_id, ..self.namespaces };
        Ok(Shared { ids, first_vm, first_files })
    }
}

/// The id of a task's resource, and whether it is new.
fn find(seen: &mut Vec<(i32, u32)>, kind: Kcmp, pid: i32, new: u32) -> Result<(u32, bool), SysError> {
    let mut failed = None;
    let place = seen.binary_search_by(|(other, _)| {
        kcmp(kind, *other, pid).unwrap_or_else(|e| {
            failed = Some(e);
            Ordering::Equal
        })
    });
    if let Some(e) = failed {
        return Err(e);
    }
    match place {
        Ok(at) => Ok((seen.get(at).map_or(new, |(_, id)| *id), false)),
        Err(at) => {
            seen.insert(at, (pid, new));
            Ok((new, true))
        }
    }
}

/// Threads that have a descriptor table or directories of their own (`unshare(2)`), which nothing restores.
pub(super) fn refuse_unshared_threads(facts: &TaskFacts, problems: &mut Vec<Problem>) {
    let kinds = [(Kcmp::Files, "descriptor table"), (Kcmp::Fs, "working directory, root and umask")];
    for thread in facts.threads.iter().skip(1) {
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
