//! Plans are carried out by a small model of the kernel, and must lead to the tree that was asked for.

use rstest::rstest;

use super::*;

/// A task: pid, parent's pid, session, ids of address space, descriptor table, directories and handlers.
type Row = (i32, i32, i32, [u32; 4]);

/// Nothing shared.
const NONE: [u32; 4] = [0; 4];

fn people(rows: &[Row]) -> Vec<Person> {
    let place = |pid| rows.iter().position(|row| row.0 == pid);
    let person = |&(pid, parent, sid, ids): &Row| {
        let id = |id: u32| if id == 0 { 1000 + pid as u32 } else { id };
        let [vm, files, fs, sighand] = ids.map(id);
        let ids = TaskKobjIdsEntry {
            vm_id: vm,
            files_id: files,
            fs_id: fs,
            sighand_id: sighand,
            ..TaskKobjIdsEntry::default()
        };
        Person {
            pid,
            parent: place(parent),
            sid,
            exit_signal: libc::SIGCHLD,
            space: None,
            is_init: pid == 1,
            ids: Some(ids),
        }
    };
    rows.iter().map(person).collect()
}

fn planned(rows: &[Row]) -> Result<Vec<Step>, Vec<(usize, PlanRefusal)>> {
    Planner::new(&people(rows), Box::new(9000..)).run()
}

/// A process of the model.
#[derive(Debug, Clone)]
struct Process {
    parent: Actor,
    session: i32,
    adopts: bool,
    /// Equal numbers mean shared, in the order of `SHAREABLE`.
    things: [usize; 4],
}

#[derive(Debug)]
struct Model<'a> {
    people: &'a [Person],
    alive: HashMap<Actor, Process>,
    things: usize,
}

impl<'a> Model<'a> {
    fn run(people: &'a [Person], steps: &[Step]) -> Self {
        let session = if people[0].is_leader() { 0 } else { people[0].sid };
        let root = Process { parent: Actor::Helper(0), session, adopts: true, things: [0, 1, 2, 3] };
        let alive = HashMap::from([(Actor::Task(0), root)]);
        let mut model = Self { people, alive, things: 4 };
        for step in steps {
            model.step(*step);
        }
        model
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Bear { new, by, flags } => {
                let maker = self.alive[&by].clone();
                let parent = if flags & libc::CLONE_PARENT == 0 { by } else { maker.parent };
                let mut things = maker.things;
                for (thing, what) in things.iter_mut().zip(SHAREABLE) {
                    if flags & what.flag == 0 {
                        *thing = self.things;
                        self.things += 1;
                    }
                }
                let born = Process { parent, session: maker.session, adopts: false, things };
                assert!(self.alive.insert(new, born).is_none(), "{new:?} is born twice");
            }
            Step::BeginSession(actor) => {
                let pid = match actor {
                    Actor::Task(at) => self.people[at].pid,
                    Actor::Helper(pid) => pid,
                };
                self.alive.get_mut(&actor).unwrap().session = pid;
            }
            Step::AdoptOrphans(at, adopts) => self.alive.get_mut(&Actor::Task(at)).unwrap().adopts = adopts,
            Step::End { helper, parent } => {
                let ended = self.alive.remove(&Actor::Helper(helper)).unwrap();
                assert_eq!(ended.parent, parent, "parent of helper {helper}");
                let mut reaper = ended.parent;
                while !self.alive[&reaper].adopts {
                    reaper = self.alive[&reaper].parent;
                }
                let orphans = self.alive.values_mut().filter(|p| p.parent == Actor::Helper(helper));
                orphans.for_each(|orphan| orphan.parent = reaper);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.alive.len(), self.people.len(), "helpers are left, or tasks missing");
        let things = |at: usize| self.alive[&Actor::Task(at)].things;
        for (at, person) in self.people.iter().enumerate() {
            let process = &self.alive[&Actor::Task(at)];
            assert_eq!(process.session, person.sid, "session of {}", person.pid);
            assert!(at == 0 || process.parent == Actor::Task(person.parent.unwrap()), "{}", person.pid);
            for (other, with) in self.people.iter().enumerate() {
                for (place, what) in SHAREABLE.iter().enumerate() {
                    let shared = things(at)[place] == things(other)[place];
                    let wanted = at == other || person.shares(with, what);
                    assert_eq!(shared, wanted, "{} of {} and {}", what.name, person.pid, with.pid);
                }
            }
        }
    }
}

#[rstest]
#[case::alone(&[(1, 0, 1, NONE)])]
#[case::job_of_a_shell(&[(1, 0, 70, NONE), (2, 1, 70, NONE)])]
#[case::children_of_one_session(&[(1, 0, 1, NONE), (2, 1, 1, NONE), (3, 2, 1, NONE)])]
#[case::sessions_below_sessions(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 2, 2, NONE), (4, 2, 4, NONE)])]
#[case::born_before_setsid(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 2, 1, NONE)])]
#[case::born_before_two_setsids(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 2, 3, NONE), (4, 3, 1, NONE)])]
#[case::born_before_setsid_of_the_root_of_a_job(&[(1, 0, 70, NONE), (2, 1, 2, NONE), (3, 2, 70, NONE)])]
#[case::leader_ended(&[(1, 0, 1, NONE), (2, 1, 80, NONE), (3, 1, 80, NONE), (4, 3, 80, NONE)])]
#[case::leader_ended_parents_differ(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 2, 80, NONE), (4, 1, 80, NONE)])]
#[case::leader_is_a_sibling(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 1, 2, NONE)])]
#[case::leader_is_below(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 2, 3, NONE), (4, 1, 3, NONE), (5, 4, 3, NONE)])]
#[case::leader_comes_later(&[(1, 0, 1, NONE), (2, 1, 3, NONE), (3, 1, 3, NONE)])]
#[case::orphan_is_above_an_orphan(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 1, 2, NONE), (4, 3, 4, NONE), (5, 3, 4, NONE)])]
#[case::all_shared(&[(1, 0, 1, [2, 2, 2, 2]), (2, 1, 1, [2, 2, 2, 2]), (3, 2, 1, [2, 2, 2, 2])])]
#[case::siblings_share(&[(1, 0, 1, NONE), (2, 1, 1, [0, 7, 0, 0]), (3, 1, 1, NONE), (4, 1, 1, [0, 7, 0, 0])])]
#[case::siblings_share_memory(&[(1, 0, 1, NONE), (2, 1, 1, [7, 0, 0, 7]), (3, 1, 1, [7, 0, 0, 7])])]
#[case::two_pairs(&[(1, 0, 1, NONE), (2, 1, 1, [0, 7, 0, 0]), (3, 1, 1, [0, 8, 0, 0]), (4, 1, 1, [0, 7, 0, 0]), (5, 1, 1, [0, 8, 0, 0])])]
#[case::shared_across_sessions(&[(1, 0, 1, [0, 0, 5, 0]), (2, 1, 2, [0, 0, 5, 0]), (3, 2, 1, [0, 0, 5, 0])])]
#[case::orphans_share(&[(1, 0, 1, NONE), (2, 1, 80, [0, 5, 0, 0]), (3, 1, 80, [0, 5, 0, 0])])]
#[case::orphans_of_a_living_leader_share(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 1, 2, [0, 5, 0, 0]), (4, 1, 2, [0, 5, 0, 0])])]
fn trees_become_what_they_were(#[case] rows: &[Row]) {
    let people = people(rows);
    let steps = planned(rows).unwrap();
    Model::run(&people, &steps).check();
}

#[rstest]
#[case::shared_past_a_parent(&[(1, 0, 1, [0, 5, 0, 0]), (2, 1, 1, NONE), (3, 2, 1, [0, 5, 0, 0])], "LostSharing")]
#[case::handlers_without_memory(&[(1, 0, 1, [0, 0, 0, 5]), (2, 1, 1, [0, 0, 0, 5])], "LostSharing")]
#[case::leader_elsewhere(&[(1, 0, 1, NONE), (2, 1, 2, NONE), (3, 1, 3, NONE), (4, 2, 3, NONE)], "NoLeader")]
#[case::leader_below_itself(&[(1, 0, 1, NONE), (2, 1, 3, NONE), (3, 2, 3, NONE)], "NoLeader")]
fn what_cannot_be_is_refused(#[case] rows: &[Row], #[case] why: &str) {
    let refused = planned(rows).unwrap_err();
    assert!(format!("{refused:?}").contains(why), "{refused:?}");
}
