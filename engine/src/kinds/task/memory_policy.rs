//! From which nodes a thread takes memory (`set_mempolicy(2)`), where it has a policy of its own.

use super::{Field, Questions, Scope, Step, TaskKind, ThreadRestore};
use crate::args;
use crate::error::Problem;
use crate::kinds::mm::extra::{MAX_NODES, NODE_BYTES};
use crate::tracee::batch::{Batch, Output};

/// The policy.
#[derive(Debug)]
pub struct MemoryPolicy;

impl TaskKind for MemoryPolicy {
    const NAME: &'static str = "memory-policy";
    const NOT_SAVED: &'static [&'static str] = &["the node that is preferred (set_mempolicy_home_node)"];
    const SCOPE: Scope = Scope::Thread;
    // Nobody else has the same one, but most have none.
    const DECIDED_BY: Option<&'static [Field]> =
        Some(&[Field::new(&[Step::In("task_struct", "mempolicy")], 8)]);

    fn ask(questions: &mut Questions) {
        let batch = questions.batch();
        let mode: Output<i32> = batch.output();
        let nodes: Output<[u8; NODE_BYTES]> = batch.output();
        // Kernels without NUMA have no such call.
        let args = args![mode, nodes, MAX_NODES, 0, 0];
        let call = batch.try_call("get_mempolicy", libc::SYS_get_mempolicy, args);
        questions.then(move |replies, core| {
            let mode = if replies.result(call).is_ok() { replies.output(mode)? } else { 0 };
            if mode != 0 {
                let nodes = replies.output_bytes(nodes)?;
                let used = nodes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                core.own.memory_policy = Some(mode as u32);
                core.own.memory_nodes = nodes.get(..used).map(<[u8]>::to_vec);
            }
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let own = &cx.core.own;
        let Some(mode) = own.memory_policy else { return Ok(()) };
        let mut mask = [0_u8; NODE_BYTES];
        mask.iter_mut().zip(own.memory_nodes.iter().flatten()).for_each(|(byte, node)| *byte = *node);
        let mask = batch.input(&mask);
        batch.call("set_mempolicy", libc::SYS_set_mempolicy, args![mode, mask, MAX_NODES]);
        Ok(())
    }
}
