//! The tree of stubs: each task made by its parent, with its pid, in its session and process group.
//!
//! `births.rs` says who makes whom, and when; here it is done. Sharing is restored at birth. Tasks that share an address
//! space share it with all their agents too, so each has an agent of its own at a place of its own; those that share a
//! descriptor table have numbers of their own for the agents' sockets.

mod below;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use proto::messages::VmaEntry;

use super::births::{Actor, Step};
use super::finish;
use super::heirlooms::Heirlooms;
use super::memory;
use super::pid_spaces::{self, Crossing, Numbers};
use super::plan::{self, PlanRefusal};
use super::set::{TASK_SIZE, Task};
use super::stub::{Stub, Stubs, add_setns};
use super::task_spaces;
use super::user_spaces::Users;
use crate::args;
use crate::error::{Context as _, Problem, SysError, TaskName};
use crate::image::Images;
use crate::kinds::files::FilesRestore;
use crate::kinds::task::signals;
use crate::options::{Parent, RestoreOptions};
use crate::pid_spaces::PidInside;
use crate::sys::process;
use crate::tracee::agent::{self, Agent, AgentError, Layout, ServingClone};
use crate::tracee::batch::{Arg, Batch, CallId, Word};
use crate::tracee::stopped::{Running, Stop, TraceError};

/// From `include/uapi/linux/rseq.h`.
const RSEQ_FLAG_UNREGISTER: i32 = 1;

/// Clones that one batch makes, while those of the batch before enter the agent.
const CLONES_AT_ONCE: usize = 4;
/// The step in which it begins to serve.
const ENTER: &str = "enter the agent";
/// The step in which a task is made.
const CREATE: &str = "create the process";
/// The step in which it gets rid of what it has from its maker.
const EMPTY: &str = "empty the new process";
/// The call that makes it.
const CLONE: &str = "clone3(set_tid)";
/// Bytes of the `struct clone_args` that we know (`CLONE_ARGS_SIZE_VER2`, `include/uapi/linux/sched.h`).
const CLONE_ARGS_SIZE: u64 = 88;

/// Pids of groups whose leaders have ended; helpers will need them. Those of sessions are in the plan of births.
pub(super) fn ended_leaders(tasks: &[Task]) -> BTreeSet<i32> {
    let root = tasks.first();
    let outside = |id: i32| root.is_some_and(|root| root.sid == id || root.pgid == id);
    let pids: HashSet<i32> = tasks.iter().map(|task| task.pid).collect();
    let ids = tasks.iter().flat_map(|task| [task.sid, task.pgid]);
    ids.filter(|id| !outside(*id) && !pids.contains(id)).collect()
}

/// Makes all stubs, as the steps say.
pub(super) fn create(
    tasks: &[Task],
    steps: &[Step],
    images: &Images,
    heirlooms: &mut Heirlooms,
    files: &mut FilesRestore<'_>,
    users: &Users,
) -> Result<Stubs, Problem> {
    let options = files.options;
    process::hold_child_signal()?;
    let base = plan::hole(tasks, options).ok_or_else(|| Problem::new(PlanRefusal::NoHole(0)))?;
    let layout = Layout { base, threads: plan::most_threads(tasks) };
    let root_task = tasks.first().ok_or(AgentError::Lost(None))?;
    let mut nursery = Nursery {
        tasks,
        images,
        heirlooms,
        files,
        layout,
        stubs: Stubs(vec![root(root_task, layout, options)?]),
        places: HashMap::from([(root_task.pid, 0)]),
        numbers: Numbers::of(tasks),
        users: users.clone(),
        early_leaders: false,
        spaces: vec![BTreeSet::from([0])],
        tables: 1,
        mapping: task_spaces::are_all_home(tasks, options).then(|| memory::all_mappings(tasks)),
        makers: steps.iter().filter_map(Step::maker).collect(),
    };
    let mut steps = steps.iter().copied().peekable();
    while let Some(step) = steps.next() {
        let Step::Bear { new, by, flags: 0 } = step else {
            nursery.take(step)?;
            continue;
        };
        let mut all = vec![new];
        while let Some(Step::Bear { new, .. }) =
            steps.next_if(|next| matches!(next, Step::Bear { by: also, flags: 0, .. } if *also == by))
        {
            all.push(new);
        }
        nursery.bear(by, &all, 0)?;
    }
    nursery.join_groups()?;
    let Nursery { mut stubs, .. } = nursery;
    let order: HashMap<i32, usize> = tasks.iter().enumerate().map(|(at, task)| (task.pid, at)).collect();
    // From here on, stubs and tasks have the same places.
    stubs.0.sort_by_key(|stub| order.get(&stub.pid).copied());
    Ok(stubs)
}

/// All stubs so far, and what they share.
struct Nursery<'a, 'f> {
    tasks: &'a [Task],
    images: &'a Images,
    heirlooms: &'a mut Heirlooms,
    /// For what kinds do in the leader of a session.
    files: &'a mut FilesRestore<'f>,
    /// The first place of an agent, of as many as may share an address space.
    layout: Layout,
    stubs: Stubs,
    /// Places of stubs, by their pids.
    places: HashMap<i32, usize>,
    /// What pid namespaces below that of the root call them.
    numbers: Numbers,
    /// User namespaces below that of the root, and who is born there.
    users: Users,
    /// Whether somebody led a group before all were born, and may have had children since.
    early_leaders: bool,
    /// Numbers of the places that agents have in each address space.
    spaces: Vec<BTreeSet<usize>>,
    /// How many descriptor tables there are.
    tables: usize,
    /// All mappings of the tree, if nothing comes between the births of tasks and what they map.
    mapping: Option<Vec<&'a VmaEntry>>,
    /// Who makes others, and so maps its memory later.
    makers: HashSet<Actor>,
}

impl Nursery<'_, '_> {
    fn take(&mut self, step: Step) -> Result<(), Problem> {
        match step {
            Step::Bear { new, by, flags } => self.bear(by, &[new], flags),
            Step::BeginSession(actor) => {
                let mut batch = Batch::new();
                batch.call("setsid", libc::SYS_setsid, args![]);
                let step = "begin its session";
                let session = self.pid(actor);
                let place = self.places.get(&session).copied();
                let leader = place.and_then(|at| self.stubs.0.get_mut(at)).ok_or(AgentError::Lost(None))?;
                leader.run(step, &batch)?;
                self.files.begin_session(session, &mut |batch| leader.run(step, batch))
            }
            Step::AdoptOrphans(at, adopts) => {
                // What it is in the end, its settings say.
                let mut batch = Batch::new();
                let args = args![libc::PR_SET_CHILD_SUBREAPER, i32::from(adopts)];
                batch.call("prctl(PR_SET_CHILD_SUBREAPER)", libc::SYS_prctl, args);
                self.stub(self.pid(Actor::Task(at)))?.run("prepare it for orphans", &batch)?;
                Ok(())
            }
            Step::End { helper, parent } => self.end_helper(helper, self.pid(parent)),
        }
    }

    fn pid(&self, actor: Actor) -> i32 {
        match actor {
            Actor::Task(at) => self.tasks.get(at).map_or(0, |task| task.pid),
            Actor::Helper(pid) => pid,
        }
    }

    /// The stub with this pid.
    fn stub(&mut self, pid: i32) -> Result<&mut Stub, Problem> {
        let stub = self.places.get(&pid).and_then(|at| self.stubs.0.get_mut(*at));
        stub.ok_or_else(|| Problem::new(SysError { call: "find its stub", errno: Errno::ESRCH }))
    }

    /// Has one stub clone others, all with the same flags.
    fn bear(&mut self, by: Actor, new: &[Actor], flags: i32) -> Result<(), Problem> {
        if let Actor::Task(maker) = by {
            self.make_heirlooms(maker)?;
        }
        let by = self.pid(by);
        // A socket that a clone has from its maker has a number that somebody else in the same table could need.
        let table = self.stub(by)?.table;
        let is_table_shared = self.stubs.0.iter().filter(|stub| stub.table == table).count() > 1;
        let is_apart = new.iter().any(|child| {
            let child = self.pid(*child);
            self.numbers.crossing(by, child) != Crossing::None || self.is_born_below(child, by)
        });
        let tasks = self.tasks;
        let of_actor = |actor: &Actor| match actor {
            Actor::Task(at) => tasks.get(*at).map(|task| NewTask::of(*at, task)),
            Actor::Helper(pid) => Some(NewTask::helper(*pid)),
        };
        let new: Vec<NewTask<'_>> = new.iter().filter_map(of_actor).collect();
        if flags == 0 && !is_apart {
            if is_table_shared {
                return self.clone_tasks(&new, by, flags);
            }
            return self.clone_in_turns(&new, by);
        }
        for new in &new {
            self.clone_tasks(std::slice::from_ref(new), by, flags).of_task(&new.name)?;
            new.task.map_or(Ok(()), |(_, task)| self.join_group_outside(task, by)).of_task(&new.name)?;
        }
        Ok(())
    }

    /// Has a stub clone others that share nothing with it, some at a time: while it makes the next, those begin to serve.
    fn clone_in_turns(&mut self, new: &[NewTask<'_>], by: i32) -> Result<(), Problem> {
        self.stub(by)?.collect()?;
        let place = self.stub(by)?.agent_place;
        let mut turns = new.chunks(CLONES_AT_ONCE);
        let mut next_turn = |tree: &mut Self| {
            let ordered = turns.next().map(|new| (new, tree.order_clones(new, by)));
            ordered.map(|(new, sockets)| sockets.map(|sockets| (new, sockets))).transpose()
        };
        // It finds the next turn in its socket when it is done with one.
        let mut ordered: VecDeque<_> = next_turn(self)?.into_iter().collect();
        ordered.extend(next_turn(self)?);
        while let Some((new, sockets)) = ordered.pop_front() {
            self.stub(by)?.collect_first()?;
            ordered.extend(next_turn(self)?);
            for (new, (ours, socket)) in new.iter().zip(sockets) {
                let take = || -> Result<Agent, Problem> {
                    let stopped = wait_for_clone(new.pid).while_trying_to(CREATE)?;
                    let clone = ServingClone { pid: new.pid, stopped, ours, socket };
                    self.stub(by)?.agent_without_waiting()?.serving_clone(clone).while_trying_to(ENTER)
                };
                let agent = take().of_task(&new.name)?;
                self.receive_clone(new, agent, by, 0, place).of_task(&new.name)?;
                self.map_at_birth(new)?;
            }
        }
        Ok(())
    }

    /// Has a new task map its memory while the next is made, if it may.
    fn map_at_birth(&mut self, new: &NewTask<'_>) -> Result<(), Problem> {
        let (Some((at, task)), Some(vmas)) = (new.task, &self.mapping) else { return Ok(()) };
        let stub = self.stubs.0.last_mut().filter(|stub| stub.pid == new.pid);
        let Some(stub) = stub.filter(|_| !self.makers.contains(&Actor::Task(at))) else { return Ok(()) };
        memory::map(stub, at, task, vmas, self.heirlooms, self.files)
    }

    /// Has a stub clone others, each with a socket by which it serves on, and then let go of those; our ends, and the numbers that
    /// the others have in the clones.
    fn order_clones(&mut self, new: &[NewTask<'_>], by: i32) -> Result<Vec<(OwnedFd, i32)>, Problem> {
        let pair = |_: &NewTask<'_>| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
                .map_err(SysError::of("socketpair"))
        };
        let pairs = new.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        let mut batch = Batch::new();
        let theirs: Vec<Arg> = pairs.iter().map(|(_, theirs)| batch.fd(theirs.as_fd())).collect();
        let mut numbers = Vec::new();
        for (new, socket) in new.iter().zip(&theirs) {
            let number = self.socket_number(new.task, None);
            let to_set = self.numbers.to_set(new.pid);
            let clone_args = add_clone_args(&mut batch, libc::CLONE_PTRACE as u64, new.exit_signal, &to_set);
            let args = args![clone_args, CLONE_ARGS_SIZE, *socket, number];
            batch.call_serving(CLONE, libc::SYS_clone3, args);
            numbers.push(number);
        }
        for socket in theirs {
            batch.call("close", libc::SYS_close, args![socket]);
        }
        self.stub(by)?.post(CREATE, batch)?;
        Ok(pairs.into_iter().map(|(ours, _)| ours).zip(numbers).collect())
    }

    /// Fills in what a task gives to those it makes, before it makes the first.
    fn make_heirlooms(&mut self, maker: usize) -> Result<(), Problem> {
        let heirlooms = self.heirlooms.of_mut(maker).filter(|own| own.gives() && !own.given_is_filled);
        let task = self.tasks.get(maker);
        let (Some(heirlooms), Some(task)) = (heirlooms, task) else { return Ok(()) };
        let stub = self.places.get(&task.pid).and_then(|at| self.stubs.0.get_mut(*at));
        let (Some(alive), Some(stub)) = (task.own_memory(), stub) else { return Ok(()) };
        memory::make_heirlooms(stub, alive, heirlooms, self.files, self.images).of_task(&stub.name)
    }

    /// Has a stub clone others, all with the same flags, one after the other.
    fn clone_tasks(&mut self, new: &[NewTask<'_>], by: i32, flags: i32) -> Result<(), Problem> {
        if let [alone] = new
            && self.is_born_below(alone.pid, by)
        {
            return self.bear_below(alone, by, flags);
        }
        let mut batch = Batch::new();
        let place = self.place_of_agent(by, flags, &mut batch)?;
        let mut flags_here = flags | libc::CLONE_PTRACE;
        let spaces = self.cross(new, by)?;
        if let Some([there, _]) = &spaces {
            add_setns(&mut batch, there.as_fd(), libc::CLONE_NEWPID);
        }
        for new in new {
            let signal = if flags & libc::CLONE_PARENT == 0 { new.exit_signal } else { 0 };
            if self.numbers.crossing(by, new.pid) == Crossing::Begins {
                flags_here |= libc::CLONE_NEWPID;
            }
            add_clone(&mut batch, flags_here as u64, signal, &self.numbers.to_set(new.pid));
        }
        if let Some([_, home]) = &spaces {
            add_setns(&mut batch, home.as_fd(), libc::CLONE_NEWPID);
        }
        self.stub(by)?.run(CREATE, &batch)?;
        self.take_clones(new, by, flags, place)
    }

    /// Takes clones at their birth, lets them enter the agent, and has them empty themselves at the same time.
    fn take_clones(&mut self, new: &[NewTask<'_>], by: i32, flags: i32, place: usize) -> Result<(), Problem> {
        let layout = self.layout.at_place(place);
        let table = (flags & libc::CLONE_FILES != 0).then_some(self.stub(by)?.table);
        let born = new.iter().map(|new| {
            let stopped = wait_for_clone(new.pid).of_task(&new.name).while_trying_to(CREATE)?;
            let socket = self.socket_number(new.task, table);
            Ok(agent::Clone { pid: new.pid, stopped, layout, socket })
        });
        let born = born.collect::<Result<Vec<_>, Problem>>()?;
        let agents = if flags & libc::CLONE_VM == 0 {
            agent::enter_clones(born)
        } else {
            born.into_iter().map(Agent::enter_sharing_clone).collect()
        };
        let agents =
            new.iter().zip(agents).map(|(new, agent)| agent.of_task(&new.name).while_trying_to(ENTER));
        for (new, agent) in new.iter().zip(agents.collect::<Result<Vec<_>, _>>()?) {
            let socket = agent.own_fd();
            self.receive_clone(new, agent, by, flags, place).of_task(&new.name)?;
            if table.is_none() {
                let mut batch = Batch::new();
                close_all_but(socket, &mut batch);
                self.stub(new.pid)?.post(EMPTY, batch)?;
            }
        }
        Ok(())
    }

    /// The place of the agent of somebody who is about to be cloned; another one where the memory is shared.
    fn place_of_agent(&mut self, by: i32, flags: i32, batch: &mut Batch<'_>) -> Result<usize, Problem> {
        let Stub { space, agent_place, .. } = *self.stub(by)?;
        if flags & libc::CLONE_VM == 0 {
            return Ok(agent_place);
        }
        let place = lowest_not_in(self.spaces.get(space).unwrap_or(&BTreeSet::new()));
        self.layout.at_place(place).add_map(batch);
        Ok(place)
    }

    /// Takes note of helpers that are about to be made; where a clone is to be born in another pid namespace, what leads there
    /// and back.
    fn cross(&mut self, new: &[NewTask<'_>], by: i32) -> Result<Option<[File; 2]>, Problem> {
        for helper in new.iter().filter(|new| new.task.is_none()) {
            self.numbers.add_helper(helper.pid, by);
        }
        let Some(first) = new.first() else { return Ok(None) };
        match self.numbers.crossing(by, first.pid) {
            Crossing::Joins(space) => Ok(Some([self.numbers.open(space)?, pid_spaces::open_of(by)?])),
            Crossing::None | Crossing::Begins => Ok(None),
        }
    }

    /// Puts a new task of another pid namespace than its maker's into a group that it could not name itself.
    fn join_group_outside(&mut self, new: &Task, by: i32) -> Result<(), Problem> {
        if self.numbers.crossing(by, new.pid) == Crossing::None
            || self.numbers.seen_from(new.pid, new.pgid).is_some()
        {
            return Ok(());
        }
        let leads = |task: &&Task| task.pid == new.pgid && task.sid != task.pid;
        if let Some(leader) = self.tasks.iter().find(leads) {
            self.early_leaders = true;
            self.set_group(leader.pid, 0)?;
        }
        let mut batch = Batch::new();
        batch.call("setpgid", libc::SYS_setpgid, args![new.pid, new.pgid]);
        self.stub(by)?.run("put its child into its process group", &batch)?;
        Ok(())
    }

    /// Takes note of a new stub, and has it empty its memory.
    fn receive_clone(
        &mut self,
        new: &NewTask<'_>,
        mut agent: Agent,
        by: i32,
        flags: i32,
        place: usize,
    ) -> Result<(), Problem> {
        let Stub { space: makers_space, table: makers_table, .. } = *self.stub(by)?;
        let shares_memory = flags & libc::CLONE_VM != 0;
        let shares_table = flags & libc::CLONE_FILES != 0;
        let table = if shares_table { makers_table } else { self.tables };
        if shares_table {
            // Its answer says that its socket has its number. Before that, a descriptor that somebody else in the table gets
            // could be under that number, and be replaced.
            let mut batch = Batch::new();
            batch.call("getpid", libc::SYS_getpid, args![]);
            agent.run(&batch).while_trying_to(ENTER)?;
        }
        let space = if shares_memory { makers_space } else { self.spaces.len() };
        let mut batch = Batch::new();
        if !shares_table {
            self.tables += 1;
        }
        if shares_memory {
            self.spaces.get_mut(space).into_iter().for_each(|agents| {
                agents.insert(place);
            });
        } else {
            for other in self.spaces.get(makers_space).into_iter().flatten().filter(|other| **other != place)
            {
                let other = self.layout.at_place(*other);
                batch.call("munmap", libc::SYS_munmap, args![other.base, Layout::size(other.threads)]);
            }
            self.heirlooms.disclaim(new.actor(), self.actor(by), self.tasks, &mut batch);
            self.spaces.push(BTreeSet::from([place]));
        }
        self.places.insert(new.pid, self.stubs.0.len());
        let mut stub = Stub::new(new.pid, new.name.clone(), agent);
        (stub.space, stub.table, stub.agent_place) = (space, table, place);
        let emptied = stub.post_later(EMPTY, batch);
        self.stubs.0.push(stub);
        emptied
    }

    /// A descriptor number for an agent that its task does not use, nor the agents of others with the same table. The
    /// next number is not used either: there is need of one for a moment.
    fn socket_number(&self, task: Option<(usize, &Task)>, shared: Option<usize>) -> i32 {
        let stubs = shared.map(|_| &self.stubs.0).into_iter().flatten();
        let others = stubs.filter(|stub| shared == Some(stub.table)).filter_map(Stub::agent_fd);
        let others = others.flat_map(|fd| [fd, fd + 1]);
        let own = task.into_iter().flat_map(|(_, task)| &task.alive).flat_map(|alive| &alive.fds);
        socket_number(own.map(|fd| fd.fd as i32).chain(others).collect())
    }

    /// Ends a helper, and has its parent forget it.
    fn end_helper(&mut self, pid: i32, parent: i32) -> Result<(), Problem> {
        let lost = || Problem::new(SysError { call: "find its stub", errno: Errno::ESRCH });
        let at = self.places.remove(&pid).ok_or_else(lost)?;
        let mut helper = self.stubs.0.swap_remove(at);
        if let Some(moved) = self.stubs.0.get(at) {
            self.places.insert(moved.pid, at);
        }
        let own = self.numbers.seen_from(pid, pid).ok_or_else(lost)?;
        finish::end(&mut helper, own, "helper", 0)?;
        let mut batch = Batch::new();
        let seen = self.numbers.seen_from(parent, pid).ok_or_else(lost)?;
        batch.call("wait4", libc::SYS_wait4, args![seen, 0, libc::__WALL, 0]);
        add_forget(&mut batch, libc::SIGCHLD);
        self.stub(parent)?.run("reap a helper", &batch)?;
        Ok(())
    }

    /// Puts every task into its process group: first those that lead one, then those that join, and last those that
    /// left the group with their own number to others.
    fn join_groups(&mut self) -> Result<(), Problem> {
        let tasks = self.tasks;
        let pids: HashSet<i32> = tasks.iter().map(|task| task.pid).collect();
        let groups: HashSet<i32> = tasks.iter().map(|task| task.pgid).collect();
        let leads = |task: &&Task| groups.contains(&task.pid) && task.sid != task.pid;
        let early_leaders = self.early_leaders;
        let joins = |task: &&Task| {
            task.pgid != task.pid && pids.contains(&task.pgid) && (task.pgid != task.sid || early_leaders)
        };
        for leader in tasks.iter().filter(leads) {
            self.set_group(leader.pid, 0)?;
        }
        for task in tasks.iter().filter(|task| joins(task) && !leads(task)) {
            self.set_group(task.pid, task.pgid)?;
        }
        // Groups whose leaders have ended. Those of a session's leader were joined at birth.
        let mut ended: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let leaders = ended_leaders(tasks);
        for task in tasks.iter().filter(|task| task.sid != task.pgid && leaders.contains(&task.pgid)) {
            ended.entry(task.pgid).or_default().push(task.pid);
        }
        for (group, members) in ended {
            let Some(&first) = members.first() else { continue };
            self.clone_tasks(&[NewTask::helper(group)], first, 0)?;
            self.set_group(group, 0)?;
            for member in members {
                self.set_group(member, group)?;
            }
            self.end_helper(group, first)?;
        }
        for task in tasks.iter().filter(|task| leads(task) && task.pgid != task.pid) {
            let group = task.pgid;
            if pids.contains(&group) {
                self.set_group(task.pid, group)?;
            }
        }
        Ok(())
    }

    /// Puts a task into a group, 0 for its own. One that it cannot name is outside of its pid namespace, and it has inherited it.
    fn set_group(&mut self, pid: i32, group: i32) -> Result<(), Problem> {
        let mut batch = Batch::new();
        let seen = if group == 0 { Some(PidInside::new(0)) } else { self.numbers.seen_from(pid, group) };
        let Some(group) = seen else { return Ok(()) };
        batch.call("setpgid", libc::SYS_setpgid, args![0, group]);
        self.stub(pid)?.run("put it into its process group", &batch)?;
        Ok(())
    }
}

/// The lowest number that is not in a set.
fn lowest_not_in(taken: &BTreeSet<usize>) -> usize {
    // Of one number more than there are in the set, one is not in it.
    (0..=taken.len()).find(|n| !taken.contains(n)).unwrap_or(0)
}

/// Closes all descriptors but one.
fn close_all_but(fd: i32, batch: &mut Batch<'_>) {
    if fd > 0 {
        batch.call("close_range", libc::SYS_close_range, args![0, fd - 1, 0]);
    }
    batch.call("close_range", libc::SYS_close_range, args![fd + 1, u32::MAX, 0]);
}

/// A number of which neither itself nor the next is used.
pub(super) fn socket_number(used: BTreeSet<i32>) -> i32 {
    (3..i32::MAX).find(|n| !used.contains(n) && !used.contains(&(n + 1))).unwrap_or(3)
}

/// Adds a call that makes a task forget a pending signal: what is ignored is not kept. Handlers are restored later.
pub(super) fn add_forget(batch: &mut Batch<'_>, signal: i32) {
    let ignore = batch.input(&[libc::SIG_IGN as u64, 0, 0, 0]);
    batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, ignore, 0, 8]);
    // Who ignores it has no zombies to wait for.
    let default = batch.input(&[0_u64; 4]);
    batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, default, 0, 8]);
}

/// A task to be cloned.
struct NewTask<'a> {
    pid: i32,
    name: TaskName,
    exit_signal: i32,
    /// Its place, and its images; none for a helper.
    task: Option<(usize, &'a Task)>,
}

impl<'a> NewTask<'a> {
    fn of(at: usize, task: &'a Task) -> Self {
        Self { pid: task.pid, name: task.name(), exit_signal: task.exit_signal(), task: Some((at, task)) }
    }

    fn actor(&self) -> Actor {
        self.task.map_or(Actor::Helper(self.pid), |(at, _)| Actor::Task(at))
    }

    fn helper(pid: i32) -> Self {
        let name = TaskName { host_pid: pid, inner_pid: None, comm: "a helper for an ended leader".into() };
        Self { pid, name, exit_signal: libc::SIGCHLD, task: None }
    }
}

/// Makes the root from ourselves: a fork that is seized, given the agent, and emptied of everything else. In namespaces of
/// its own, it has been made already.
fn root(task: &Task, layout: Layout, options: &RestoreOptions) -> Result<Stub, Problem> {
    let name = task.name();
    let make = || -> Result<Stub, Problem> {
        let (reader, writer) =
            nix::unistd::pipe2(nix::fcntl::OFlag::empty()).map_err(SysError::of("pipe2"))?;
        let forked = if options.inside.types.is_empty() {
            let flags = if options.parent == Parent::Sibling { libc::CLONE_PARENT } else { 0 };
            plan::fork_when_free(task.pid, flags)
        } else {
            Ok(Some(task.pid))
        };
        let Some(pid) = forked.map_err(|e| pid_error(e, task.pid)).while_trying_to("create the process")?
        else {
            process::wait_to_be_taken(&reader, &writer);
        };
        let running =
            Running::seize(pid, libc::PTRACE_O_EXITKILL).while_trying_to("seize the new process")?;
        running.interrupt()?;
        let (stopped, _) = running.wait(options_limit())?;
        let rseq = crate::sys::ptrace::rseq_configuration(pid).while_trying_to("look at the new process")?;
        let own = task.alive.iter().flat_map(|alive| &alive.fds).map(|fd| fd.fd as i32);
        let socket = socket_number(own.collect());
        let agent = Agent::inject_into_fork(pid, stopped, layout, socket);
        let mut stub = Stub::new(pid, name.clone(), agent.while_trying_to("put the agent in")?);
        let agent_end = layout.base + Layout::size(layout.threads);
        let mut batch = Batch::new();
        if rseq.rseq_abi_pointer != 0 {
            // The kernel writes there whenever the thread is scheduled, and it is about to be unmapped.
            let args = args![rseq.rseq_abi_pointer, rseq.rseq_abi_size, RSEQ_FLAG_UNREGISTER, rseq.signature];
            batch.call("rseq", libc::SYS_rseq, args);
        }
        batch.call("munmap", libc::SYS_munmap, args![0, layout.base]);
        batch.call("munmap", libc::SYS_munmap, args![agent_end, TASK_SIZE - agent_end]);
        // All of our descriptors; the pipe among them has served: since it was seized, the process dies with us.
        close_all_but(socket, &mut batch);
        // What we ignore, nobody shall have from us.
        signals::add_defaults(&mut batch);
        stub.run(EMPTY, &batch)?;
        Ok(stub)
    };
    make().of_task(&name)
}

/// Says who took a pid between the check and the fork.
fn pid_error(e: SysError, pid: i32) -> Problem {
    let by = crate::tracee::freeze::task_name(pid).map(|name| name.to_string());
    match (e.errno, by) {
        (Errno::EEXIST, Some(by)) => Problem::new(PlanRefusal::PidTaken { pid, by }),
        _ => Problem::new(e),
    }
}

fn options_limit() -> Duration {
    Duration::from_secs(10)
}

/// Adds a `clone3` of a traced task or thread with certain numbers in its pid namespaces, the innermost first.
pub(super) fn add_clone(batch: &mut Batch<'_>, flags: u64, exit_signal: i32, tids: &[i32]) -> CallId {
    let clone_args = add_clone_args(batch, flags, exit_signal, tids);
    batch.call(CLONE, libc::SYS_clone3, args![clone_args, CLONE_ARGS_SIZE])
}

/// Adds a `struct clone_args`.
fn add_clone_args(batch: &mut Batch<'_>, flags: u64, exit_signal: i32, tids: &[i32]) -> Arg {
    let set_tid = batch.input(tids);
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup.
    let mut words = [Word::Value(0); 11];
    words[0] = Word::Value(flags);
    words[4] = Word::Value(exit_signal as u64);
    if !tids.is_empty() {
        words[8] = Word::Pointer(set_tid);
    }
    words[9] = Word::Value(tids.len() as u64);
    batch.input_words(&words)
}

/// Waits until a clone, which is traced from birth, is at its first stop.
pub(super) fn wait_for_clone(tid: i32) -> Result<crate::tracee::stopped::Stopped, TraceError> {
    let (stopped, stop) = Running::adopt(tid).wait(options_limit())?;
    match stop {
        Stop::Interrupt => Ok(stopped),
        stop => Err(TraceError::Unexpected { tid, stop }),
    }
}
