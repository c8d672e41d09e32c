//! What changes by itself while a task is stopped: timers run out, and signals arrive.
//!
//! It is read last of all, and so that it fits together: a timer that has run out is not armed any more, but has a signal
//! pending. Each is true of its own moment only. So the pending signals are read before and after the timers, until both
//! are the same; then no timer ran out in between. As a rule there are none, which the task tells while it is at it; which
//! they are can be seen only while its thread is stopped.
//!
//! A task with one thread was asked on its way into the agent ([`Last`]), and its thread is stopped, as a rule: if no signal was pending before
//! and none is now, what it answered then is true of both moments, and nobody has to be woken up.

use proto::messages::SignalQueueEntry;

use super::inspect::TaskFacts;
use super::task::TaskImages;
use crate::args;
use crate::error::{Context as _, Problem};
use crate::kinds::TASK_KINDS;
use crate::kinds::task::{Questions, ThreadImage};
use crate::tracee::agent::Agent;
use crate::tracee::batch::{Batch, Output, Replies};
use crate::tracee::freeze::{FrozenTask, FrozenTree};

/// How often it is read, at most: somebody who sends signals all the time may not keep us.
const MAX_ROUNDS: usize = 16;

/// What a task is asked for it to be settled by one look, later.
pub(super) struct Last {
    questions: Questions,
    /// Which signals were pending before all other questions.
    before: Output<u64>,
}

/// What it answered.
pub(super) struct Answered {
    last: Last,
    replies: Replies,
}

impl Last {
    /// None for a task with several threads, or with more than one batch has room for.
    pub(super) fn of(facts: &TaskFacts, cores: &[ThreadImage]) -> Option<Self> {
        let leader = cores.first().filter(|_| facts.threads.len() == 1)?;
        let mut questions = Questions::default();
        let before = ask_what_is_pending(&mut questions);
        questions.ask_last(leader);
        let [questions] = <[Questions; 1]>::try_from(questions.into_parts()).ok()?;
        Some(Self { questions, before })
    }

    /// The calls.
    pub(super) fn batch(&self) -> &Batch<'static> {
        self.questions.batch_ref()
    }

    /// With the answer.
    pub(super) fn answered(self, replies: Replies) -> Answered {
        Answered { last: self, replies }
    }
}

impl Answered {
    /// Takes what a task answered that has been stopped ever since, if it is true still. Whether it is.
    fn take(&self, facts: &TaskFacts, agent: &mut Agent, cores: &mut [ThreadImage]) -> Result<bool, Problem> {
        if !agent.is_parked() || self.replies.output(self.last.before)? != 0 {
            return Ok(false);
        }
        look(facts, agent, true, cores)?;
        if queues(cores).iter().flatten().any(|queue| !queue.signals.is_empty()) {
            return Ok(false);
        }
        if let Some(leader) = cores.first_mut() {
            self.last.questions.answer(&self.replies, leader)?;
        }
        Ok(true)
    }
}

/// Reads it for every task, but for what is `answered` already. All are asked before any has to answer.
pub(super) fn settle(
    tree: &mut FrozenTree,
    facts: &[Option<TaskFacts>],
    images: &mut [TaskImages],
    answered: Vec<Option<Answered>>,
) -> Result<(), Problem> {
    let mut asked = Vec::new();
    let tasks = tree.tasks.iter_mut().zip(facts).zip(&mut *images);
    for (((task, facts), image), answered) in tasks.zip(answered) {
        let (Some(facts), Some(mut agent)) = (facts, task.agent.take()) else {
            if let Some(facts) = facts {
                // No timer runs in it, and its thread is stopped.
                look_from_outside(facts, true, &mut image.cores).of_task(&task.name)?;
            }
            asked.push(None);
            continue;
        };
        let begun = ask_again(task, facts, &mut agent, &mut image.cores, answered);
        task.agent = Some(agent);
        asked.push(begun.of_task(&task.name)?);
    }
    for (((task, facts), image), asked) in tree.tasks.iter_mut().zip(facts).zip(images).zip(asked) {
        let (Some(facts), Some(agent), Some(asked)) = (facts, &mut task.agent, asked) else { continue };
        end(facts, agent, &mut image.cores, asked).of_task(&task.name)?;
    }
    Ok(())
}

/// Asks a task, unless what it answered is true still.
fn ask_again(
    task: &mut FrozenTask,
    facts: &TaskFacts,
    agent: &mut Agent,
    cores: &mut [ThreadImage],
    answered: Option<Answered>,
) -> Result<Option<Asked>, Problem> {
    if let Some(answered) = answered
        && answered.take(facts, agent, cores)?
    {
        return Ok(None);
    }
    ask_alone(task, facts, agent, cores)?;
    begin(facts, agent, false, cores).map(Some)
}

/// What a task was asked, and whether it had pending signals before.
struct Asked {
    has_pending: bool,
    questions: Vec<Questions>,
    /// Which signals were pending for it, before all other questions and after them.
    pending: [Output<u64>; 2],
}

/// Looks at a task, which `has_pending` signals as far as is known, and asks it.
fn begin(
    facts: &TaskFacts,
    agent: &mut Agent,
    has_pending: bool,
    cores: &mut [ThreadImage],
) -> Result<Asked, Problem> {
    look(facts, agent, has_pending, cores)?;
    let mut questions = Questions::default();
    let before = ask_what_is_pending(&mut questions);
    if let Some(leader) = cores.first() {
        questions.ask_last(leader);
    }
    let after = ask_what_is_pending(&mut questions);
    let questions = questions.into_parts();
    // Further ones follow when this is answered: nobody reads so many answers that the agent never waits for room.
    if let Some(first) = questions.first() {
        agent.send(first.batch_ref()).while_trying_to(ABOUT_TIMERS)?;
    }
    Ok(Asked { has_pending, questions, pending: [before, after] })
}

/// Adds the question which signals are pending for the serving thread, or for its process: it blocks all.
fn ask_what_is_pending(questions: &mut Questions) -> Output<u64> {
    questions.room(1, size_of::<u64>());
    let batch = questions.batch();
    let pending = batch.output();
    batch.call("rt_sigpending", libc::SYS_rt_sigpending, args![pending, size_of::<u64>()]);
    pending
}

/// Takes what the task answers, and looks at it again: in vain as long as something has changed meanwhile.
fn end(
    facts: &TaskFacts,
    agent: &mut Agent,
    cores: &mut [ThreadImage],
    mut asked: Asked,
) -> Result<(), Problem> {
    for round in 1.. {
        let queues_before = queues(cores);
        let Some(leader) = cores.first_mut() else { break };
        let last = asked.questions.len().saturating_sub(1);
        let [before, after] = asked.pending;
        let mut has_pending = asked.has_pending;
        for (at, questions) in asked.questions.into_iter().enumerate() {
            let batch = questions.batch_ref();
            let replies = if at == 0 { agent.receive(batch) } else { agent.run(batch) };
            let replies = replies.while_trying_to(ABOUT_TIMERS)?;
            questions.answer(&replies, leader)?;
            has_pending |= at == 0 && replies.output(before)? != 0;
            has_pending |= at == last && replies.output(after)? != 0;
        }
        look(facts, agent, has_pending, cores)?;
        // Whoever is asked must be heard: the last round asks nothing more.
        if queues(cores) == queues_before || round == MAX_ROUNDS {
            break;
        }
        asked = begin(facts, agent, has_pending, cores)?;
    }
    Ok(())
}

/// The step in which a task answers how its timers are.
const ABOUT_TIMERS: &str = "ask it for its timers";

/// Takes what can be seen from outside. If the serving thread `has_pending` signals, it must be stopped for that, too.
fn look(
    facts: &TaskFacts,
    agent: &mut Agent,
    has_pending: bool,
    cores: &mut [ThreadImage],
) -> Result<(), Problem> {
    if !has_pending {
        return look_from_outside(facts, false, cores);
    }
    agent.while_stopped(|_| look_from_outside(facts, true, cores)).while_trying_to("stop its agent")?
}

fn look_from_outside(facts: &TaskFacts, has_pending: bool, cores: &mut [ThreadImage]) -> Result<(), Problem> {
    facts.threads.iter().zip(cores).try_for_each(|(thread, core)| {
        let has_pending = has_pending || thread.tid != facts.pid;
        TASK_KINDS.iter().try_for_each(|kind| kind.look_last(facts, thread, has_pending, core))
    })
}

/// The pending signals of all threads, and of the task.
fn queues(cores: &[ThreadImage]) -> Vec<Option<SignalQueueEntry>> {
    let shared = cores.first().and_then(|leader| leader.tc.as_ref()).and_then(|tc| tc.signals_s.clone());
    let own = cores.iter().map(|core| core.thread_core.as_ref().and_then(|thread| thread.signals_p.clone()));
    std::iter::once(shared).chain(own).collect()
}

/// Asks the threads of a task one after the other, the leader last.
fn ask_alone(
    task: &mut FrozenTask,
    facts: &TaskFacts,
    agent: &mut Agent,
    cores: &mut [ThreadImage],
) -> Result<(), Problem> {
    let step = "ask its threads";
    let Some(leader) = cores.first_mut().filter(|_| facts.threads.len() > 1) else { return Ok(()) };
    for (index, thread) in facts.threads.iter().enumerate().rev() {
        for questions in Questions::alone(leader, thread.tid).into_parts() {
            let batch = questions.batch_ref();
            let replies = match index {
                0 => agent.run(batch).while_trying_to(step)?,
                index => agent.run_on_thread(task, index, batch).while_trying_to(step)?,
            };
            questions.answer(&replies, leader)?;
        }
    }
    Ok(())
}
