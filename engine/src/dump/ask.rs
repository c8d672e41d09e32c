//! What only a task itself knows: an agent is put into each, and asked. They answer while others are being asked.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use super::inspect::TaskFacts;
use super::likeness;
use super::settle;
use super::task::{TASK_STOPPED, TaskImages};
use crate::args;
use crate::error::{Context as _, Problem};
use crate::kinds::files::FilesDump;
use crate::kinds::mm::{bounds, extra};
use crate::kinds::task::{Questions, Scope, ThreadImage};
use crate::pid_spaces::{self, PidInside};
use crate::room;
use crate::supervise::Lifeline;
use crate::tracee::agent::{self, Agent, AgentError, Entrance};
use crate::tracee::batch::{Batch, Output, Replies};
use crate::tracee::freeze::{FrozenTask, FrozenTree, TaskState};

/// What one task is asked on its way in.
#[derive(Default)]
struct First<'a> {
    /// About its mappings, if it is the first with its address space.
    mappings: Option<extra::Questions<'a>>,
    /// About what changes by itself, if that can be settled by one look.
    last: Option<settle::Last>,
}

impl<'a> First<'a> {
    fn of(facts: &'a TaskFacts, image: &TaskImages) -> Self {
        let mappings = image.has_memory().then(|| extra::Questions::of(facts));
        Self { mappings, last: settle::Last::of(facts, &image.cores) }
    }

    /// All that it is asked, if it can be asked on its way in.
    fn all<'q>(&'q self, leaders: &'q Questions) -> Vec<&'q Batch<'static>> {
        let last = self.last.iter().map(settle::Last::batch);
        self.at_once(leaders).into_iter().chain(last).collect()
    }

    /// What it is asked if it cannot: the rest comes later.
    fn at_once<'q>(&'q self, leaders: &'q Questions) -> Vec<&'q Batch<'static>> {
        let mappings = self.mappings.iter().flat_map(extra::Questions::batches);
        std::iter::once(leaders.batch_ref()).chain(mappings).collect()
    }
}

/// Puts an agent into each task and asks what only the task knows. For each task, what it said of what is to be settled.
///
/// Who has a spokesman is neither asked nor given an agent: what that one answers is true of both.
pub(super) fn ask(
    tree: &mut FrozenTree,
    facts: &[Option<TaskFacts>],
    images: &mut [TaskImages],
    files: &FilesDump<'_>,
    lifeline: &Lifeline,
) -> Result<Vec<Option<settle::Answered>>, Problem> {
    let mut leaders = Questions::of(&[Scope::Task, Scope::Thread]);
    let mm_questions = bounds::Questions::ask(leaders.batch());
    let others = Questions::of(&[Scope::Thread]);
    let mut first: Vec<First<'_>> = Vec::with_capacity(facts.len());
    let spokesmen = likeness::spokesmen(tree, facts, images, files);
    for ((facts, image), spokesman) in facts.iter().zip(&*images).zip(&spokesmen) {
        let asked = facts.as_ref().filter(|_| spokesman.is_none());
        first.push(asked.map(|facts| First::of(facts, image)).unwrap_or_default());
    }
    lifeline.check()?;
    let asked = |at: usize| match (spokesmen.get(at), first.get(at)) {
        (Some(None), Some(first)) => Some(first.all(&leaders)),
        _ => None,
    };
    put_agents_in(tree, facts, images, asked)?;
    for (task, first) in tree.tasks.iter_mut().zip(&first) {
        let Some(agent) = &mut task.agent else { continue };
        let asked = agent.ask_first(&first.at_once(&leaders));
        asked.of_task(&task.name).while_trying_to(ABOUT_ITSELF)?;
    }
    let mut unsettled: Vec<Option<settle::Answered>> = Vec::new();
    // Of those who answer for others.
    let mut answers: BTreeMap<usize, Option<Replies>> =
        spokesmen.iter().flatten().map(|at| (*at, None)).collect();
    let of_images = images.iter_mut().zip(&mut first).enumerate();
    for ((task, facts), (at, (image, first))) in tree.tasks.iter_mut().zip(facts).zip(of_images) {
        unsettled.push(None);
        let (Some(facts), Some(alive)) = (facts, &mut image.alive) else { continue };
        let name = task.name.clone();
        let Some(agent) = &mut task.agent else { continue };
        let replies = agent.first_replies(&first.at_once(&leaders));
        let mut replies = replies.of_task(&name).while_trying_to(ABOUT_ITSELF)?.into_iter();
        let mut next = || replies.next().ok_or(AgentError::Lost(None));
        let of_leader = next()?;
        if let Some(core) = image.cores.first_mut() {
            leaders.answer(&of_leader, core).of_task(&name).while_trying_to(ABOUT_ITSELF)?;
        }
        if let Some(mm) = &mut alive.mm {
            mm_questions.answer(&of_leader, mm).of_task(&name).while_trying_to(ABOUT_ITSELF)?;
        }
        if let Some(mappings) = first.mappings.take() {
            let replies = mappings.batches().map(|_| next()).collect::<Result<Vec<_>, _>>()?;
            alive.extra = mappings.answer(&replies).of_task(&name).while_trying_to(ABOUT_ITSELF)?;
        }
        if let (Some(last), Ok(replies), Some(known)) = (first.last.take(), next(), unsettled.last_mut()) {
            *known = Some(last.answered(replies));
        }
        if facts.threads.len() > 1 {
            let Some(mut agent) = task.agent.take() else { continue };
            let answered = ask_others(&mut agent, task, facts, &others, &mut image.cores);
            task.agent = Some(agent);
            answered.of_task(&name).while_trying_to("ask its threads")?;
        }
        if let Some(kept) = answers.get_mut(&at) {
            *kept = Some(of_leader);
        }
    }
    let tasks = tree.tasks.iter().zip(facts).zip(&mut *images).zip(spokesmen);
    for (((task, facts), image), spokesman) in tasks {
        let (Some(spokesman), Some(facts), Some(alive)) = (spokesman, facts, &mut image.alive) else {
            continue;
        };
        let said = answers.get(&spokesman).and_then(Option::as_ref).ok_or(AgentError::Lost(None));
        let said = said.of_task(&task.name).while_trying_to(ABOUT_ITSELF)?;
        if let (Some(core), Some(likeness)) = (image.cores.first_mut(), &facts.likeness) {
            leaders.answer(said, core).of_task(&task.name).while_trying_to(ABOUT_ITSELF)?;
            likeness.tell(core);
        }
        if let Some(mm) = &mut alive.mm {
            mm_questions.answer(said, mm).of_task(&task.name).while_trying_to(ABOUT_ITSELF)?;
            alive.extra = extra::without_policies(facts);
        }
    }
    ask_about_children(tree, images)?;
    Ok(unsettled)
}

/// Asks threads of a task beside the first: one of those that are alike.
fn ask_others(
    agent: &mut Agent,
    task: &mut FrozenTask,
    facts: &TaskFacts,
    questions: &Questions,
    cores: &mut [ThreadImage],
) -> Result<(), Problem> {
    let spokesmen = likeness::spokesmen_of_threads(facts);
    let is_asked = |at: usize| spokesmen.get(at).is_none_or(Option::is_none);
    let mut replies = agent.run_on_other_threads(task, is_asked, questions.batch_ref())?.into_iter();
    let mut said = BTreeMap::new();
    for (at, (core, thread)) in cores.iter_mut().zip(&facts.threads).enumerate().skip(1) {
        if is_asked(at) {
            said.insert(at, replies.next().ok_or(AgentError::Lost(None))?);
        }
        let spokesman = spokesmen.get(at).copied().flatten();
        let said = said.get(&spokesman.unwrap_or(at)).ok_or(AgentError::Lost(None))?;
        questions.answer(said, core)?;
        if let Some(seen) = thread.seen.as_ref().filter(|_| spokesman.is_some()) {
            seen.likeness.tell(core);
        }
    }
    Ok(())
}

/// Puts an agent into each task that lives and is asked itself: `first`, by its place in the tree.
fn put_agents_in<'a>(
    tree: &'a mut FrozenTree,
    facts: &'a [Option<TaskFacts>],
    images: &[TaskImages],
    first: impl Fn(usize) -> Option<Vec<&'a Batch<'static>>>,
) -> Result<(), Problem> {
    let mut raised = Vec::new();
    let (mut entrances, mut asked) = (Vec::new(), Vec::new());
    for (at, ((task, facts), image)) in tree.tasks.iter_mut().zip(facts).zip(images).enumerate() {
        let (Some(facts), Some(first)) = (facts, first(at)) else { continue };
        asked.push((at, task.name.clone()));
        // The agent's socket is one end of a pair.
        let room = room::make_in(facts.pid, 2, image.descriptors(), facts.descriptors());
        raised.push(room.of_task(&task.name)?);
        let saved = facts.threads.iter().map(|thread| thread.saved.clone()).collect();
        let memory = facts.memory.clone();
        let (vdso, code) = (facts.vdso(), facts.code());
        let (pidfd, signal) = (facts.pidfd.as_fd(), signal_without_effect(facts));
        entrances.push(Entrance { task, saved, memory, vdso, code, pidfd, signal, first });
    }
    let mut agents = agent::inject_all(entrances).into_iter();
    drop(raised);
    let mut first = Ok(());
    for (at, name) in asked {
        match (agents.next(), tree.tasks.get_mut(at)) {
            (Some(Ok(agent)), Some(task)) => task.agent = Some(agent),
            (Some(Err(e)), _) if first.is_ok() => {
                first = Err(Problem::new(e).task(&name).step("put the agent in"));
            }
            _ => {}
        }
    }
    first
}

/// A signal that a task's first thread does not block, and that does nothing to it.
fn signal_without_effect(facts: &TaskFacts) -> Option<i32> {
    /// What these do unless a task has it otherwise.
    const IGNORED: [i32; 3] = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD];
    /// These only if a task ignores them; no code but a program's own waits for one of them.
    const OTHERS: [i32; 3] = [libc::SIGPIPE, libc::SIGUSR1, libc::SIGUSR2];
    let leader = facts.leader();
    let status = &leader.status;
    let has = |set: u64, signal: i32| set & 1 << (signal - 1) != 0;
    let busy = leader.saved.sigmask | status.sig_pnd | status.shd_pnd | status.sig_cgt;
    let others = OTHERS.into_iter().filter(|signal| has(status.sig_ign, *signal));
    IGNORED.into_iter().chain(others).find(|signal| !has(busy, *signal))
}

/// The step in which a task answers what only it knows.
const ABOUT_ITSELF: &str = "ask it about itself";

/// Asks each parent which stops of its children `wait(2)` has told it, and which continuations it has not.
fn ask_about_children(tree: &mut FrozenTree, images: &mut [TaskImages]) -> Result<(), Problem> {
    /// Questions in one batch.
    const AT_ONCE: usize = 64;
    let mut children: BTreeMap<usize, Vec<(usize, PidInside)>> = BTreeMap::new();
    let own = |at: usize| images.get(at).and_then(|image| Some(&image.cores.first()?.own));
    let space = |at: usize| own(at).and_then(|own| Some(own.pid_space?.ns_id));
    for (at, task) in tree.tasks.iter().enumerate().filter(|(_, task)| task.state != TaskState::Zombie) {
        if let Some(parent) = task.parent {
            let Some(seen) = own(at) else { continue };
            let pid = pid_spaces::seen_from(space(parent), seen);
            children.entry(parent).or_default().push((at, pid));
        }
    }
    for (parent, children) in children {
        let Some(task) = tree.tasks.get_mut(parent) else { continue };
        let Some(agent) = &mut task.agent else { continue };
        for children in children.chunks(AT_ONCE) {
            let mut batch = Batch::new();
            let asked: Vec<_> = children.iter().map(|(_, pid)| ask_about_child(*pid, &mut batch)).collect();
            let step = "ask it what it knows of its children";
            let replies = agent.run(&batch).of_task(&task.name).while_trying_to(step)?;
            for ((at, _), info) in children.iter().zip(asked) {
                let [_, _, code, ..] = replies.output::<[i32; 32]>(info)?;
                let Some(leader) = images.get_mut(*at).and_then(|image| image.cores.first_mut()) else {
                    continue;
                };
                let is_stopped = leader.tc.as_ref().is_some_and(|tc| tc.task_state == TASK_STOPPED);
                leader.own.stop_seen = is_stopped.then_some(code != libc::CLD_STOPPED);
                leader.own.continue_unseen = (code == libc::CLD_CONTINUED).then_some(true);
            }
        }
    }
    Ok(())
}

/// Adds the question what `wait(2)` has still to tell of a child; it tells that again to the next who asks.
fn ask_about_child(pid: PidInside, batch: &mut Batch<'_>) -> Output<[i32; 32]> {
    let info = batch.output();
    let options = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    batch.call("waitid", libc::SYS_waitid, args![libc::P_PID, pid, info, options, 0]);
    info
}
