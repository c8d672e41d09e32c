//! What changes by itself while a task is stopped: timers run out, and signals arrive.
//!
//! It is read last of all, and so that it fits together: a timer that has run out is not armed any more, but has a signal
//! pending. Each is true of its own moment only. So the pending signals are read before and after the timers, until both
//! are the same; then no timer ran out in between.

use proto::messages::SignalQueueEntry;

use super::inspect::TaskFacts;
use super::task::TaskImages;
use crate::error::{Context as _, Problem};
use crate::kinds::TASK_KINDS;
use crate::kinds::task::{Questions, ThreadImage};
use crate::tracee::agent::Agent;
use crate::tracee::freeze::{FrozenTask, FrozenTree};

/// How often it is read, at most: somebody who sends signals all the time may not keep us.
const MAX_ROUNDS: usize = 16;

/// Reads it for every task.
pub(super) fn settle(
    tree: &mut FrozenTree,
    facts: &[Option<TaskFacts>],
    images: &mut [TaskImages],
) -> Result<(), Problem> {
    for ((task, facts), image) in tree.tasks.iter_mut().zip(facts).zip(images) {
        let (Some(facts), Some(mut agent)) = (facts, task.agent.take()) else { continue };
        let settled = ask_alone(task, facts, &mut agent, &mut image.cores)
            .and_then(|()| settle_task(facts, &mut agent, &mut image.cores));
        task.agent = Some(agent);
        settled.of_task(&task.name)?;
    }
    Ok(())
}

fn settle_task(facts: &TaskFacts, agent: &mut Agent, cores: &mut [ThreadImage]) -> Result<(), Problem> {
    look(facts, agent, cores)?;
    for _ in 0..MAX_ROUNDS {
        let before = queues(cores);
        let Some(leader) = cores.first_mut() else { break };
        for questions in Questions::last(leader).into_parts() {
            let replies = agent.run(questions.batch_ref()).while_trying_to("ask it for its timers")?;
            questions.answer(&replies, leader)?;
        }
        look(facts, agent, cores)?;
        if queues(cores) == before {
            break;
        }
    }
    Ok(())
}

/// Takes what can be seen from outside, for which the serving thread must be stopped, too.
fn look(facts: &TaskFacts, agent: &mut Agent, cores: &mut [ThreadImage]) -> Result<(), Problem> {
    let looked = agent.while_stopped(|_| {
        facts.threads.iter().zip(cores).try_for_each(|(thread, core)| {
            TASK_KINDS.iter().try_for_each(|kind| kind.look_last(facts, thread, core))
        })
    });
    looked.while_trying_to("stop its agent")?
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
        for questions in Questions::alone(leader, thread.inner_tid).into_parts() {
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
