//! Pid namespaces below that of the root: who is in which, and how the tasks in it number each other.
//!
//! A namespace is made by whoever makes its init (`CLONE_NEWPID`). Others are born there by somebody who is there, or by
//! somebody outside of it who has it as that of its children for the moment (setns(2)).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use proto::catalogue::STASIS_THREADS;

use super::set::Task;
use super::stub::{Stubs, add_setns};
use crate::args;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::invalid;
use crate::pid_spaces::PidInside;
use crate::tracee::batch::Batch;

/// How a task is born, as seen by its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    /// Into the namespace of its maker.
    None,
    /// As the init of a new one.
    Begins,
    /// Into one below that of its maker.
    Joins(u32),
}

/// A namespace, and the number that somebody has in it.
type Place = (u32, PidInside);

/// The numbers of all tasks, threads, groups and sessions that are in namespaces below that of the root.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    places: HashMap<i32, Place>,
    /// The inits, by the ids of their namespaces.
    inits: HashMap<u32, i32>,
    /// The next number for a helper.
    next: i32,
}

impl Numbers {
    /// Those of a tree.
    pub(super) fn of(tasks: &[Task]) -> Self {
        // Helpers have the highest that a namespace has as a rule (`PID_MAX_DEFAULT` of include/linux/threads.h).
        let mut numbers = Self { next: 0x7fff, ..Self::default() };
        for task in tasks {
            let Some(own) = task.space() else { continue };
            for thread in &task.threads {
                numbers.places.insert(thread.tid, (own.ns_id, thread.inside()));
            }
            if task.inside().is_init() {
                numbers.inits.insert(own.ns_id, task.pid);
            }
            // Their leaders may have ended.
            for (id, inside) in [(task.sid, own.sid), (task.pgid, own.pgid)] {
                if let Some(inside) = inside.filter(|number| *number != 0) {
                    let place = (own.ns_id, PidInside::new(inside.cast_signed()));
                    numbers.places.entry(id).or_insert(place);
                }
            }
        }
        numbers
    }

    /// The namespace that somebody is in; none for that of the root.
    pub(super) fn space(&self, pid: i32) -> Option<u32> {
        self.places.get(&pid).map(|(space, _)| *space)
    }

    /// Takes note of a helper that is to be made by somebody; it is in the same namespace, unless it has the number of
    /// somebody who was elsewhere.
    pub(super) fn add_helper(&mut self, pid: i32, maker: i32) {
        let Some(space) = self.space(maker).filter(|_| !self.places.contains_key(&pid)) else { return };
        let taken: HashSet<PidInside> =
            self.places.values().filter(|(other, _)| *other == space).map(|(_, inside)| *inside).collect();
        while taken.contains(&PidInside::new(self.next)) {
            self.next -= 1;
        }
        self.places.insert(pid, (space, PidInside::new(self.next)));
    }

    /// How somebody numbers another one, or a group or session; none if that is outside of its namespace.
    pub(super) fn seen_from(&self, viewer: i32, pid: i32) -> Option<PidInside> {
        match (self.space(viewer), self.places.get(&pid)) {
            (None, _) => Some(PidInside::new(pid)),
            (Some(own), Some((space, inside))) if own == *space => Some(*inside),
            _ => None,
        }
    }

    /// How somebody is born.
    pub(super) fn crossing(&self, maker: i32, child: i32) -> Crossing {
        match (self.space(maker), self.places.get(&child)) {
            (None, Some((_, inside))) if inside.is_init() => Crossing::Begins,
            (None, Some((space, _))) => Crossing::Joins(*space),
            _ => Crossing::None,
        }
    }

    /// The numbers that somebody is to be given, as `clone3` wants them: the innermost first.
    pub(super) fn to_set(&self, pid: i32) -> Vec<i32> {
        let inside = self.places.get(&pid).map(|(_, inside)| inside.number());
        inside.into_iter().chain([pid]).collect()
    }

    /// Leads to a namespace, whose init is there.
    pub(super) fn open(&self, space: u32) -> Result<File, Problem> {
        let init = self.inits.get(&space).copied();
        let init =
            init.ok_or(SysError { call: "find the init of its pid namespace", errno: Errno::ESRCH })?;
        open_of(init)
    }
}

/// Leads to the namespace that somebody is in.
pub(super) fn open_of(pid: i32) -> Result<File, Problem> {
    let path = format!("/proc/{pid}/ns/pid");
    File::open(&path).map_err(SysError::io("open")).about(|| Object::Path(path.into()))
}

/// Finds what is impossible, in images that somebody has tampered with.
pub(super) fn check(tasks: &[Task]) -> Vec<Problem> {
    let mut inits: HashSet<u32> = HashSet::new();
    let mut taken: HashSet<Place> = HashSet::new();
    let mut problems = Vec::new();
    for task in tasks {
        let mut refuse = |what| problems.push(invalid(&STASIS_THREADS, 0, what).task(&task.name()));
        if let Some(id) = task.core().own.pid_ns_for_children
            && (task.space().is_some() || (id != 0 && !tasks.iter().any(|other| other.begins(id))))
        {
            refuse("its children would be in a pid namespace that nobody is the init of");
        }
        let Some(own) = task.space() else {
            if task.parent.and_then(|parent| tasks.get(parent)?.space()).is_some() {
                refuse("its parent is in a pid namespace below its own");
            }
            continue;
        };
        let parents = task.parent.and_then(|parent| tasks.get(parent)?.space()).map(|space| space.ns_id);
        if task.parent.is_none() || parents.is_some_and(|parents| parents != own.ns_id) {
            refuse("its parent is in another pid namespace below that of the root");
        }
        if task.inside().is_init() {
            if parents.is_some() || !inits.insert(own.ns_id) {
                refuse("a pid namespace has another init, or one whose parent is in it");
            }
        } else if !inits.contains(&own.ns_id) {
            refuse("the init of its pid namespace does not come before it");
        }
        for thread in &task.threads {
            let same = thread.space().is_some_and(|space| space.ns_id == own.ns_id);
            if !same || thread.inside().number() < 1 || !taken.insert((own.ns_id, thread.inside())) {
                refuse("a thread's number in its pid namespace is impossible, or there twice");
            }
        }
    }
    problems
}

/// Has tasks make their future children elsewhere. They have their threads: none could be made any more.
pub(super) fn for_children(stubs: &mut Stubs, tasks: &[Task]) -> Result<(), Problem> {
    let numbers = Numbers::of(tasks);
    for (task, stub) in tasks.iter().zip(&mut stubs.0).filter(|(task, _)| task.alive.is_some()) {
        let mut batch = Batch::new();
        let space;
        match task.core().own.pid_ns_for_children {
            None => continue,
            Some(0) => {
                batch.call("unshare", libc::SYS_unshare, args![libc::CLONE_NEWPID]);
            }
            Some(id) => {
                space = numbers.open(id).of_task(&stub.name)?;
                add_setns(&mut batch, space.as_fd(), libc::CLONE_NEWPID);
            }
        }
        stub.run("prepare a pid namespace for its children", &batch)?;
    }
    Ok(())
}
