//! The execution domain and its flags (`personality(2)`), seen in `/proc/PID/personality`.

use super::{Scope, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// The personality.
#[derive(Debug)]
pub struct Personality;

impl TaskKind for Personality {
    const NAME: &'static str = "personality";
    const SCOPE: Scope = Scope::Task;
    const READS: &'static [&'static str] = &["personality"];

    fn look(task: &TaskFacts, _thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        super::task(core).personality = u32::from_str_radix(task.text("personality")?, 16).unwrap_or(0);
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        batch.call("personality", libc::SYS_personality, args![cx.task()?.personality]);
        Ok(())
    }
}
