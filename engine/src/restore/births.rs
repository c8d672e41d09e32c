//! Who makes whom, and in which order: a plan of steps, made before anything is.
//!
//! A session is entered at birth and left only by beginning another, so a child that belongs to the session its parent
//! was born in must be born before its parent's `setsid`. A child that got its parent when its own ended is born by a
//! helper below that: an existing member of the session makes the helper, the helper makes the child and ends, and the
//! child goes to the nearest subreaper above, which its parent is made for the while. Where the leader has ended too, the
//! first helper has its number and begins the session again.
//!
//! What two tasks share, they share since one of them was made: by its parent, or by a sibling (`CLONE_PARENT`), which
//! therefore must be one that shares it.

use std::collections::{BTreeSet, HashMap, HashSet};

use proto::messages::TaskKobjIdsEntry;

use super::plan::PlanRefusal;
use super::set::Task;
use crate::error::Problem;

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Actor {
    /// A task, by its place in the set.
    Task(usize),
    /// A helper, by its pid.
    Helper(i32),
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// `by` clones `new`, with flags that say what both share.
    Bear {
        /// The child.
        new: Actor,
        /// Its maker.
        by: Actor,
        /// `CLONE_*`.
        flags: i32,
    },
    /// It begins a session.
    BeginSession(Actor),
    /// Orphans below it become its children, or do so no longer.
    AdoptOrphans(usize, bool),
    /// A helper ends, and its parent forgets it.
    End {
        /// The helper, by its pid.
        helper: i32,
        /// Its parent.
        parent: Actor,
    },
}

impl Step {
    /// Who makes somebody.
    pub(super) fn maker(&self) -> Option<Actor> {
        match self {
            Self::Bear { by, .. } => Some(*by),
            _ => None,
        }
    }
}

/// What matters of a task here.
#[derive(Debug, Clone)]
struct Person {
    pid: i32,
    parent: Option<usize>,
    sid: i32,
    exit_signal: i32,
    /// Its pid namespace, if that is another than the root's …
    space: Option<u32>,
    /// … and whether it is its init, which has no siblings there that it could make.
    is_init: bool,
    /// None for a zombie, which shares nothing.
    ids: Option<TaskKobjIdsEntry>,
}

impl Person {
    fn is_leader(&self) -> bool {
        self.sid == self.pid
    }

    fn shares(&self, other: &Self, what: &Shareable) -> bool {
        matches!((&self.ids, &other.ids), (Some(a), Some(b)) if (what.id)(a) == (what.id)(b))
    }
}

/// A sort of thing that tasks may share.
struct Shareable {
    name: &'static str,
    flag: i32,
    id: fn(&TaskKobjIdsEntry) -> u32,
}

const SHAREABLE: [Shareable; 4] = [
    Shareable { name: "address space", flag: libc::CLONE_VM, id: |ids| ids.vm_id },
    Shareable { name: "signal handlers", flag: libc::CLONE_SIGHAND, id: |ids| ids.sighand_id },
    Shareable { name: "descriptor table", flag: libc::CLONE_FILES, id: |ids| ids.files_id },
    Shareable { name: "working directory and umask", flag: libc::CLONE_FS, id: |ids| ids.fs_id },
];

/// How a task gets into its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its parent makes it, before beginning a session of its own.
    Before,
    /// Its parent makes it, after that, or at any time.
    After,
    /// A helper makes it, below this member of its session.
    Through(Anchor),
}

/// Where a session can be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchor {
    /// Its leader, by its place.
    Leader(usize),
    /// A helper with the number of its leader, who has ended.
    Ended(i32),
}

/// Plans all births; every task that cannot be brought into its session, or to what it shares, is refused.
pub(super) fn plan(tasks: &[Task], free_pids: impl Iterator<Item = i32>) -> Result<Vec<Step>, Vec<Problem>> {
    let people: Vec<Person> = tasks
        .iter()
        .map(|task| Person {
            pid: task.pid,
            parent: task.parent,
            sid: task.sid,
            exit_signal: task.exit_signal(),
            space: task.space().map(|space| space.ns_id),
            is_init: task.inside().is_init(),
            ids: task.alive.as_ref().map(|alive| alive.ids),
        })
        .collect();
    let refused = |(at, refusal): (usize, PlanRefusal)| {
        let problem = Problem::new(refusal);
        tasks.get(at).map(Task::name).into_iter().fold(problem, |problem, name| problem.task(&name))
    };
    let free_pids: Box<dyn Iterator<Item = i32> + '_> = Box::new(free_pids);
    Planner::new(&people, free_pids).run().map_err(|all| all.into_iter().map(refused).collect())
}

struct Planner<'a> {
    people: &'a [Person],
    children: Vec<Vec<usize>>,
    by_pid: HashMap<i32, usize>,
    places: Vec<Place>,
    /// The session each one is in now; absent if not made yet.
    session: HashMap<usize, i32>,
    /// Ids of shared things that somebody made has.
    made: HashSet<(&'static str, u32)>,
    free_pids: Box<dyn Iterator<Item = i32> + 'a>,
    steps: Vec<Step>,
    refused: Vec<(usize, PlanRefusal)>,
}

impl<'a> Planner<'a> {
    fn new(people: &'a [Person], free_pids: Box<dyn Iterator<Item = i32> + 'a>) -> Self {
        let mut children = vec![Vec::new(); people.len()];
        for (at, person) in people.iter().enumerate() {
            if let Some(siblings) = person.parent.and_then(|parent| children.get_mut(parent)) {
                siblings.push(at);
            }
        }
        Self {
            people,
            children,
            by_pid: people.iter().enumerate().map(|(at, person)| (person.pid, at)).collect(),
            places: vec![Place::After; people.len()],
            session: HashMap::new(),
            made: HashSet::new(),
            free_pids,
            steps: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Vec<Step>, Vec<(usize, PlanRefusal)>> {
        self.find_places();
        self.note_made(0);
        // A root that leads no session is in that of the engine or of the image's, which both are not of the tree.
        self.session
            .insert(0, self.people.first().map_or(0, |root| if root.is_leader() { 0 } else { root.sid }));
        self.raise(0);
        self.bear_the_rest();
        if self.refused.is_empty() { Ok(self.steps) } else { Err(self.refused) }
    }

    fn person(&self, at: usize) -> &'a Person {
        // Places come from the list itself.
        &self.people[at]
    }

    /// Decides for each task how it gets into its session, children before their parents: what a child needs may decide
    /// in which session its parent must be born.
    fn find_places(&mut self) {
        let mut born_in: Vec<Option<i32>> =
            self.people.iter().map(|person| (!person.is_leader()).then_some(person.sid)).collect();
        for at in (0..self.people.len()).rev() {
            for child in self.children.get(at).cloned().unwrap_or_default() {
                let Some(session) = born_in.get(child).copied().flatten() else { continue };
                match self.place(at, session) {
                    Some(Place::Before) => {
                        let own = born_in.get_mut(at);
                        match own {
                            Some(own) if own.is_none_or(|own| own == session) => *own = Some(session),
                            _ => self.refused.push((child, PlanRefusal::NoLeader { id: session })),
                        }
                        self.set_place(child, Place::Before);
                    }
                    Some(place) => self.set_place(child, place),
                    None => self.refused.push((child, PlanRefusal::NoLeader { id: session })),
                }
            }
        }
    }

    fn set_place(&mut self, at: usize, place: Place) {
        if let Some(slot) = self.places.get_mut(at) {
            *slot = place;
        }
    }

    /// How a child of `parent` can be born in a session.
    fn place(&self, parent: usize, session: i32) -> Option<Place> {
        let person = self.person(parent);
        if person.sid == session {
            return Some(Place::After);
        }
        let is_outside = |root: &Person| !root.is_leader() && root.sid == session;
        let outside = self.people.first().is_some_and(is_outside);
        let provided = self.ancestors(parent).any(|ancestor| self.person(ancestor).sid == session);
        match self.by_pid.get(&session) {
            _ if (provided || outside) && person.is_leader() => Some(Place::Before),
            Some(&leader) if self.ancestors(leader).any(|ancestor| ancestor == parent) => {
                Some(Place::Through(Anchor::Leader(leader)))
            }
            None if !outside => Some(Place::Through(Anchor::Ended(session))),
            _ => None,
        }
    }

    /// Everybody above a task, from its parent on.
    fn ancestors(&self, at: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.person(at).parent, |at| self.person(*at).parent)
    }

    /// Makes the children that a task itself makes, and theirs.
    fn raise(&mut self, at: usize) {
        let mut left = vec![at];
        while let Some(at) = left.pop() {
            let children = self.children.get(at).cloned().unwrap_or_default();
            self.bear_all(at, &children, Place::Before);
            let person = self.person(at);
            if person.is_leader() {
                self.steps.push(Step::BeginSession(Actor::Task(at)));
                self.session.insert(at, person.pid);
            }
            self.bear_all(at, &children, Place::After);
            let made = |child: &usize| self.session.contains_key(child);
            left.extend(children.into_iter().rev().filter(made));
        }
    }

    fn bear_all(&mut self, parent: usize, children: &[usize], place: Place) {
        for &child in children {
            if self.places.get(child) == Some(&place) {
                self.bear(child, Some(parent));
            }
        }
    }

    /// Has a task made by its parent, or by a sibling, whoever shares with it what it shares with anybody made so far.
    fn bear(&mut self, child: usize, parent: Option<usize>) -> bool {
        let person = self.person(child);
        let session = (!person.is_leader()).then_some(person.sid);
        let as_parent = parent.map(|parent| (parent, 0));
        let siblings = person.parent.and_then(|parent| self.children.get(parent)).into_iter().flatten();
        let as_siblings = siblings
            .filter(|sibling| self.person(**sibling).exit_signal == person.exit_signal)
            .filter(|sibling| self.person(**sibling).space == person.space && !self.person(**sibling).is_init)
            .map(|sibling| (*sibling, libc::CLONE_PARENT));
        // One that its parent makes before beginning a session, but may be of any, is in the right one in any case.
        let fits = |maker: usize| {
            let now = self.session.get(&maker).copied();
            now.is_some() && (Some(maker) == parent || session.is_none_or(|session| now == Some(session)))
        };
        let maker = as_parent
            .into_iter()
            .chain(as_siblings)
            .find(|(maker, _)| *maker != child && fits(*maker) && self.keeps_sharing(child, *maker));
        let Some((maker, flags)) = maker else { return self.refuse_sharing(child, parent.is_some()) };
        let shared = |what: &&Shareable| person.shares(self.person(maker), what);
        let flags = SHAREABLE.iter().filter(shared).fold(flags, |all, what| all | what.flag);
        if flags & libc::CLONE_SIGHAND != 0 && flags & libc::CLONE_VM == 0 {
            let what = "signal handlers, but not its address space,";
            self.refused.push((child, PlanRefusal::LostSharing { what }));
            return false;
        }
        let session = self.session.get(&maker).copied().unwrap_or(0);
        self.steps.push(Step::Bear { new: Actor::Task(child), by: Actor::Task(maker), flags });
        self.session.insert(child, session);
        self.note_made(child);
        true
    }

    /// Whether a maker has everything that somebody made already shares with the child.
    fn keeps_sharing(&self, child: usize, maker: usize) -> bool {
        let person = self.person(child);
        self.shared_already(child).all(|what| person.shares(self.person(maker), what))
    }

    /// What somebody made already shares with a task.
    fn shared_already(&self, child: usize) -> impl Iterator<Item = &'static Shareable> + use<'_, 'a> {
        let ids = self.person(child).ids;
        SHAREABLE.iter().filter(move |what| {
            ids.as_ref().is_some_and(|ids| self.made.contains(&(what.name, (what.id)(ids))))
        })
    }

    fn refuse_sharing(&mut self, child: usize, finally: bool) -> bool {
        let lost = self.shared_already(child).next().map(|what| what.name);
        if let Some(what) = lost.filter(|_| finally) {
            self.refused.push((child, PlanRefusal::LostSharing { what }));
        }
        false
    }

    fn note_made(&mut self, at: usize) {
        if let Some(ids) = &self.person(at).ids {
            self.made.extend(SHAREABLE.iter().map(|what| (what.name, (what.id)(ids))));
        }
    }

    /// Makes those that helpers must make, as soon as parent and session are there.
    fn bear_the_rest(&mut self) {
        let through = |(at, place): (usize, &Place)| match place {
            Place::Through(anchor) => Some((at, *anchor)),
            _ => None,
        };
        let mut left: Vec<(usize, Anchor)> = self.places.iter().enumerate().filter_map(through).collect();
        loop {
            let before = left.len();
            let mut ended = BTreeSet::new();
            left.retain(|(child, anchor)| match anchor {
                Anchor::Leader(leader) => !self.bear_below(*child, *leader),
                Anchor::Ended(session) => {
                    ended.insert(*session);
                    true
                }
            });
            for session in ended {
                let is_member =
                    |(child, anchor): &(usize, Anchor)| (*anchor == Anchor::Ended(session)).then_some(*child);
                let members: Vec<usize> = left.iter().filter_map(is_member).collect();
                if self.begin_again(session, &members) {
                    left.retain(|(child, _)| !members.contains(child));
                }
            }
            if left.len() == before {
                break;
            }
        }
        for (child, _) in left {
            let id = self.person(child).sid;
            if !self.refused.iter().any(|(at, _)| *at == child) {
                self.refused.push((child, PlanRefusal::NoLeader { id }));
            }
        }
    }

    /// Has a child made in the session of a leader below its parent; false if it is too early.
    fn bear_below(&mut self, child: usize, leader: usize) -> bool {
        let Some(parent) = self.person(child).parent else { return false };
        let session = self.person(leader).pid;
        if !self.session.contains_key(&parent) || self.session.get(&leader) != Some(&session) {
            return false;
        }
        if self.bear(child, None) {
            self.raise(child);
            return true;
        }
        if self.shared_already(child).next().is_some() {
            return self.refuse_sharing(child, true);
        }
        // Orphans stay in their pid namespace.
        let spaces = [parent, leader, child].map(|at| self.person(at).space);
        if spaces != [spaces[0]; 3] {
            return false;
        }
        let Some(helper) = self.free_pids.next() else { return false };
        self.bear_by_helper(child, parent, helper, Actor::Task(leader), session);
        self.raise(child);
        true
    }

    /// Has `maker` make a helper, which makes the child and ends.
    fn bear_by_helper(&mut self, child: usize, parent: usize, helper: i32, maker: Actor, session: i32) {
        self.steps.extend([
            Step::Bear { new: Actor::Helper(helper), by: maker, flags: 0 },
            Step::Bear { new: Actor::Task(child), by: Actor::Helper(helper), flags: 0 },
            Step::AdoptOrphans(parent, true),
            Step::End { helper, parent: maker },
            Step::AdoptOrphans(parent, false),
        ]);
        self.session.insert(child, session);
        self.note_made(child);
    }

    /// Has a helper with the number of an ended leader begin its session again, and make all members that nobody else
    /// can make; false if it is too early, or impossible.
    fn begin_again(&mut self, session: i32, members: &[usize]) -> bool {
        let parents: BTreeSet<usize> =
            members.iter().filter_map(|member| self.person(*member).parent).collect();
        // Orphans go upwards only, so the helper must be below all their parents.
        let is_below_all = |lowest: &&usize| {
            parents.iter().all(|parent| parent == *lowest || self.ancestors(**lowest).any(|a| a == *parent))
        };
        let Some(&lowest) = parents.iter().find(is_below_all) else { return false };
        if !parents.iter().all(|parent| self.session.contains_key(parent)) {
            return false;
        }
        let space = self.person(lowest).space;
        if !members.iter().chain(&parents).all(|at| self.person(*at).space == space) {
            return false;
        }
        let leader = Actor::Helper(session);
        self.steps.push(Step::Bear { new: leader, by: Actor::Task(lowest), flags: 0 });
        self.steps.push(Step::BeginSession(leader));
        let mut made: Vec<usize> = Vec::new();
        let (near, far): (Vec<usize>, Vec<usize>) =
            members.iter().partition(|member| self.person(**member).parent == Some(lowest));
        for child in far {
            let Some(parent) = self.person(child).parent else { continue };
            if self.bear(child, None) {
                made.push(child);
            } else if self.shared_already(child).next().is_some() {
                self.refuse_sharing(child, true);
            } else if let Some(helper) = self.free_pids.next() {
                self.bear_by_helper(child, parent, helper, leader, session);
                made.push(child);
            }
        }
        for child in near {
            if self.shared_already(child).next().is_none() {
                self.steps.push(Step::Bear { new: Actor::Task(child), by: leader, flags: 0 });
                self.session.insert(child, session);
                self.note_made(child);
                made.push(child);
            } else if self.bear_beside(child, session) {
                made.push(child);
            } else {
                self.refuse_sharing(child, true);
            }
        }
        self.steps.extend([
            Step::AdoptOrphans(lowest, true),
            Step::End { helper: session, parent: Actor::Task(lowest) },
            Step::AdoptOrphans(lowest, false),
        ]);
        for child in made {
            self.raise(child);
        }
        true
    }

    /// Has a sibling that the same helper made make a child: of the helper too, until that ends.
    fn bear_beside(&mut self, child: usize, session: i32) -> bool {
        let in_session = self.session.get(&child).is_none_or(|now| *now == session);
        in_session && self.bear(child, None)
    }
}

#[cfg(test)]
mod tests;
