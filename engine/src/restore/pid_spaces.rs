//! Pid namespaces below that of the root: who is in which, and how the tasks in it number each other.
//!
//! A namespace is made by whoever makes its init (`CLONE_NEWPID`). Others are born there by somebody who is there, or by
//! somebody outside of it who has it as that of its children for the moment (setns(2)).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use proto::catalogue::STASIS_THREADS;
use proto::messages::StasisPidSpace;

use super::set::{Task, Thread};
use super::stub::{Stubs, add_setns};
use crate::args;
use crate::dump::inspect::read_proc;
use crate::error::{Context as _, Problem, SysError};
use crate::image::invalid;
use crate::pid_spaces::{self, PidInside};
use crate::procfs;
use crate::procfs::link::NamespaceType;
use crate::tracee::batch::Batch;
use crate::visit;

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

/// The numbers of somebody who is to be made.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Those that are chosen, the innermost first.
    pub chosen: Vec<i32>,
    /// Those that are not, but for that in the root's namespace: each with the init of its namespace.
    pub others: Vec<(i32, i32)>,
    /// All of them, the outermost first.
    pub all: Vec<i32>,
}

impl Wanted {
    /// Whether somebody has all of them, by its `status` file.
    pub(super) fn are_those_of(&self, status: &str) -> Result<bool, Problem> {
        Ok(read_proc(status.to_owned(), procfs::status::parse)?.ns_pid == self.all)
    }
}

/// A namespace, and the number that somebody has in it.
type Place = (u32, PidInside);

/// The numbers of all tasks, threads, groups and sessions that are in namespaces below that of the root.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The innermost first.
    places: HashMap<i32, Vec<Place>>,
    /// The namespaces that others are in, if that is not the root's.
    parents: HashMap<u32, u32>,
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
                let spaces = pid_spaces::numbers_of(&thread.core.own);
                let places = spaces.map(|space| (space.ns_id, PidInside::new(space.tid.cast_signed())));
                numbers.places.insert(thread.tid, places.collect());
            }
            if task.inside().is_init() {
                numbers.inits.insert(own.ns_id, task.pid);
            }
            let spaces: Vec<StasisPidSpace> = pid_spaces::numbers_of(&task.core().own).collect();
            for [inner, outer] in spaces.array_windows() {
                numbers.parents.insert(inner.ns_id, outer.ns_id);
            }
            // Their leaders may have ended.
            let number = |of: fn(&StasisPidSpace) -> Option<u32>| {
                let seen = spaces.iter().filter_map(|space| Some((space.ns_id, of(space)?)));
                let seen = seen.filter(|(_, number)| *number != 0);
                seen.map(|(space, number)| (space, PidInside::new(number.cast_signed()))).collect::<Vec<_>>()
            };
            for (id, places) in
                [(task.sid, number(|space| space.sid)), (task.pgid, number(|space| space.pgid))]
            {
                if !places.is_empty() {
                    numbers.places.entry(id).or_insert(places);
                }
            }
        }
        numbers
    }

    /// The namespace that somebody is in; none for that of the root.
    pub(super) fn space(&self, pid: i32) -> Option<u32> {
        self.places.get(&pid)?.first().map(|(space, _)| *space)
    }

    /// Takes note of a helper that is to be made by somebody; it is in the same namespaces, unless it has the number of
    /// somebody who was elsewhere.
    pub(super) fn add_helper(&mut self, pid: i32, maker: i32) {
        let Some(makers) = self.places.get(&maker).filter(|_| !self.places.contains_key(&pid)) else {
            return;
        };
        let taken: HashSet<Place> = self.places.values().flatten().copied().collect();
        let is_taken = |next| makers.iter().any(|(space, _)| taken.contains(&(*space, PidInside::new(next))));
        let mut next = self.next;
        while is_taken(next) {
            next -= 1;
        }
        let places = makers.iter().map(|(space, _)| (*space, PidInside::new(next))).collect();
        self.next = next;
        self.places.insert(pid, places);
    }

    /// Forgets a helper.
    pub(super) fn forget(&mut self, helper: i32) {
        self.places.remove(&helper);
    }

    /// How somebody numbers another one, or a group or session; none if that is outside of its namespace.
    pub(super) fn seen_from(&self, viewer: i32, pid: i32) -> Option<PidInside> {
        let Some(own) = self.space(viewer) else { return Some(PidInside::new(pid)) };
        let place = self.places.get(&pid)?.iter().find(|(space, _)| *space == own);
        place.map(|(_, inside)| *inside)
    }

    /// How somebody is born.
    pub(super) fn crossing(&self, maker: i32, child: i32) -> Crossing {
        let makers = self.space(maker);
        match self.places.get(&child).and_then(|places| places.first()) {
            Some((space, _)) if Some(*space) == makers => Crossing::None,
            Some((space, inside)) if inside.is_init() && self.parents.get(space).copied() == makers => {
                Crossing::Begins
            }
            Some((space, _)) => Crossing::Joins(*space),
            None => Crossing::None,
        }
    }

    /// The numbers that somebody is to be given, as `clone3` wants them: the innermost first.
    pub(super) fn to_set(&self, pid: i32) -> Vec<i32> {
        let inside = self.places.get(&pid).into_iter().flatten().map(|(_, inside)| inside.number());
        inside.chain([pid]).collect()
    }

    /// The numbers that somebody is to be given by a maker who may choose those in some namespaces only.
    pub(super) fn wanted(&self, pid: i32, may_choose: impl Fn(u32) -> bool) -> Wanted {
        let places = self.places.get(&pid).map(Vec::as_slice).unwrap_or_default();
        let chosen = places.iter().take_while(|(space, _)| may_choose(*space)).count();
        let number = |(_, inside): &Place| inside.number();
        let others = places.iter().skip(chosen);
        let others = others.filter_map(|place| Some((*self.inits.get(&place.0)?, number(place))));
        Wanted {
            chosen: places.iter().take(chosen).map(number).collect(),
            others: others.collect(),
            all: places.iter().map(number).chain([pid]).rev().collect(),
        }
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
    visit::of(pid, NamespaceType::Pid)
}

/// Finds what is impossible, in images that somebody has tampered with.
pub(super) fn check(tasks: &[Task]) -> Vec<Problem> {
    let mut inits: HashSet<u32> = HashSet::new();
    let mut taken: HashSet<Place> = HashSet::new();
    let mut above: HashMap<u32, Option<u32>> = HashMap::new();
    let mut problems = Vec::new();
    for task in tasks {
        let mut refuse = |what| problems.push(invalid(&STASIS_THREADS, 0, what).task(&task.name()));
        if let Some(id) = task.core().own.pid_ns_for_children
            && id != 0
            && !tasks.iter().any(|other| other.begins(id))
        {
            refuse("its children would be in a pid namespace that nobody is the init of");
        }
        let spaces = |thread: &Thread| -> Vec<u32> {
            pid_spaces::numbers_of(&thread.core.own).map(|space| space.ns_id).collect()
        };
        let own = task.threads.first().map(spaces).unwrap_or_default();
        let parents = task.parent.and_then(|parent| tasks.get(parent)?.space()).map(|space| space.ns_id);
        if parents.is_some_and(|parents| !own.contains(&parents)) {
            refuse("its parent is in a pid namespace that it is not in");
        }
        let Some(innermost) = own.first() else { continue };
        let outer = own.iter().skip(1).copied().map(Some).chain([None]);
        if own.iter().zip(outer).any(|(space, outer)| *above.entry(*space).or_insert(outer) != outer) {
            refuse("a pid namespace is in two others");
        }
        if task.parent.is_none() {
            refuse("the root of the tree is below its own pid namespace");
        }
        if task.inside().is_init() {
            if parents != own.get(1).copied() || !inits.insert(*innermost) {
                refuse("a pid namespace has another init, or one whose parent is not in the next one");
            }
        } else if !inits.contains(innermost) {
            refuse("the init of its pid namespace does not come before it");
        }
        for thread in &task.threads {
            let mut places = pid_spaces::numbers_of(&thread.core.own).map(|space| (space.ns_id, space.tid));
            let is_new = |(space, tid): (u32, u32)| {
                let inside = PidInside::new(tid.cast_signed());
                inside.number() >= 1 && taken.insert((space, inside))
            };
            if spaces(thread) != own || !places.all(is_new) {
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
