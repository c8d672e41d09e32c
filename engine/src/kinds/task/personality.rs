//! The execution domain and its flags (`personality(2)`).

use super::{Field, Questions, Scope, Step, TaskKind, ThreadRestore};
use crate::args;
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// The personality.
#[derive(Debug)]
pub struct Personality;

impl TaskKind for Personality {
    const NAME: &'static str = "personality";
    const SCOPE: Scope = Scope::Task;
    const DECIDED_BY: Option<&'static [Field]> =
        Some(&[Field::new(&[Step::In("task_struct", "personality")], 4)]);

    fn ask(questions: &mut Questions) {
        /// Which it is, without a change.
        const NONE_NEW: u32 = u32::MAX;
        let now = questions.batch().call("personality", libc::SYS_personality, args![NONE_NEW]);
        questions.then(move |replies, core| {
            super::task(core).personality = replies.result(now)? as u32;
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        batch.call("personality", libc::SYS_personality, args![cx.task()?.personality]);
        Ok(())
    }
}
