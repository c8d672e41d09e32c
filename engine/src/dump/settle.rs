//! What changes by itself while a task is stopped: timers run out, and signals arrive.
//!
//! It is read last of all, and so that it fits together: a timer that has run out is not armed any more, but has a signal
//! pending. Each is true of its own moment only. So the pending signals are read before and after the timers, until both
//! are the same; then no timer ran out in between. As a rule there are none, which `/proc` tells.

use proto::messages::SignalQueueEntry;

use super::inspect::{TaskFacts, read_single};
use super::task::TaskImages;
use crate::error::{Context as _, Problem};
use crate::kinds::TASK_KINDS;
use crate::kinds::task::{Questions, ThreadImage};
use crate::procfs;
use crate::tracee::agent::Agent;
use crate::tracee::freeze::{FrozenTask, FrozenTree};

/// How often it is read, at most: somebody who sends signals all the time may not keep us.
const MAX_ROUNDS: usize = 16;

/// Reads it for every task. All are asked before any has to answer.
pub(super) fn settle(
    tree: &mut FrozenTree,
    facts: &[Option<TaskFacts>],
    images: &mut [TaskImages],
) -> Result<(), Problem> {
    let mut asked = Vec::new();
    for ((task, facts), image) in tree.tasks.iter_mut().zip(facts).zip(&mut *images) {
        let (Some(facts), Some(mut agent)) = (facts, task.agent.take()) else {
            asked.push(None);
            continue;
        };
        let alone = ask_alone(task, facts, &mut agent, &mut image.cores);
        let begun = alone.and_then(|()| begin(facts, &mut agent, &mut image.cores));
        task.agent = Some(agent);
        asked.push(Some(begun.of_task(&task.name)?));
    }
    for (((task, facts), image), asked) in tree.tasks.iter_mut().zip(facts).zip(images).zip(asked) {
        let (Some(facts), Some(agent), Some(asked)) = (facts, &mut task.agent, asked) else { continue };
        end(facts, agent, &mut image.cores, asked).of_task(&task.name)?;
    }
    Ok(())
}

/// What a task was asked, and whether it had pending signals before.
struct Asked {
    has_pending: bool,
    questions: Vec<Questions>,
}

/// Looks at a task, and asks it.
fn begin(facts: &TaskFacts, agent: &mut Agent, cores: &mut [ThreadImage]) -> Result<Asked, Problem> {
    let has_pending = has_pending(facts)?;
    look(facts, agent, has_pending, cores)?;
    let questions = cores.first().map(Questions::last).map(Questions::into_parts).unwrap_or_default();
    // Further ones follow when this is answered: nobody reads so many answers that the agent never waits for room.
    if let Some(first) = questions.first() {
        agent.send(first.batch_ref()).while_trying_to(ABOUT_TIMERS)?;
    }
    Ok(Asked { has_pending, questions })
}

/// Takes what the task answers, and looks at it again: in vain as long as something has changed meanwhile.
fn end(
    facts: &TaskFacts,
    agent: &mut Agent,
    cores: &mut [ThreadImage],
    mut asked: Asked,
) -> Result<(), Problem> {
    for round in 1.. {
        let before = queues(cores);
        let Some(leader) = cores.first_mut() else { break };
        for (at, questions) in asked.questions.into_iter().enumerate() {
            let batch = questions.batch_ref();
            let replies = if at == 0 { agent.receive(batch) } else { agent.run(batch) };
            questions.answer(&replies.while_trying_to(ABOUT_TIMERS)?, leader)?;
        }
        let has_pending = asked.has_pending || has_pending(facts)?;
        look(facts, agent, has_pending, cores)?;
        // Whoever is asked must be heard: the last round asks nothing more.
        if queues(cores) == before || round == MAX_ROUNDS {
            break;
        }
        asked = begin(facts, agent, cores)?;
    }
    Ok(())
}

/// The step in which a task answers how its timers are.
const ABOUT_TIMERS: &str = "ask it for its timers";

/// Whether signals are pending for the serving thread, or for its process. That can be seen while the thread runs; which
/// they are, only when it is stopped.
fn has_pending(facts: &TaskFacts) -> Result<bool, Problem> {
    let status = read_single(&format!("/proc/{}/status", facts.pid), procfs::status::parse)?;
    Ok(status.sig_pnd | status.shd_pnd != 0)
}

/// Takes what can be seen from outside. If the serving thread `has_pending` signals, it must be stopped for that, too.
fn look(
    facts: &TaskFacts,
    agent: &mut Agent,
    has_pending: bool,
    cores: &mut [ThreadImage],
) -> Result<(), Problem> {
    let look = || {
        facts.threads.iter().zip(cores).try_for_each(|(thread, core)| {
            let has_pending = has_pending || thread.tid != facts.pid;
            TASK_KINDS.iter().try_for_each(|kind| kind.look_last(facts, thread, has_pending, core))
        })
    };
    if !has_pending {
        return look();
    }
    agent.while_stopped(|_| look()).while_trying_to("stop its agent")?
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
