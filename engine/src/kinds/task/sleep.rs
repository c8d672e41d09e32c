//! What is left of a call with a timeout that the dump interrupted.
//!
//! It is measured and slept by `tracee/sleep.rs`, since both are done to a thread without an agent.

use std::time::Duration;

use super::{Scope, TaskKind, ThreadImage, ThreadRestore};
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// Interrupted calls with a relative timeout.
#[derive(Debug)]
pub struct Sleeps;

impl TaskKind for Sleeps {
    const NAME: &'static str = "sleep";
    const NOT_SAVED: &'static [&'static str] = &[
        "what is left of the timeout of epoll_wait, semtimedop, sigtimedwait, and of sockets (SO_RCVTIMEO, SO_SNDTIMEO), which begins anew",
        "what is left of the timeout of poll, futex and nanosleep in a stopped process, or where /proc/timer_list cannot be read, which begins anew",
        "that a socket with SO_SNDTIMEO was being connected: the call fails with EINTR, as after any stop",
    ];
    const SCOPE: Scope = Scope::Thread;

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let left = thread.sleep.and_then(|sleep| Some((sleep.call, sleep.left?)));
        core.own.sleep_call = left.map(|(call, _)| call as u32);
        core.own.sleep_left = left.map(|(_, left)| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// There is nothing to do for an agent.
    fn restore(_cx: ThreadRestore<'_>, _batch: &mut Batch<'_>) -> Result<(), Problem> {
        Ok(())
    }
}

/// The call that a restored thread is in, and what is left of its time.
pub fn left(image: &ThreadImage) -> Option<(i64, Duration)> {
    Some((image.own.sleep_call?.into(), Duration::from_nanos(image.own.sleep_left?)))
}
