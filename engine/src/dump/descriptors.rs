//! What only a task itself tells of its descriptors in little time: whether execve closes them (`F_GETFD`).

use crate::args;
use crate::error::{Context as _, Problem};
use crate::kinds::files::FilesDump;
use crate::tracee::batch::{Batch, CallId};
use crate::tracee::freeze::{FrozenTask, FrozenTree};

use super::task::TaskImages;

/// Asks each task about those of its descriptors of which that is not known.
pub(super) fn ask(
    tree: &mut FrozenTree,
    images: &mut [TaskImages],
    files: &FilesDump<'_>,
) -> Result<(), Problem> {
    for (task, image) in tree.tasks.iter_mut().zip(images) {
        let fds = files.unasked(task.pid);
        if !fds.is_empty() {
            let name = task.name.clone();
            let closed =
                closed_by_execve(task, fds).of_task(&name).while_trying_to("ask it about its descriptors")?;
            image.set_closed_by_execve(&closed);
        }
    }
    Ok(())
}

/// Those of some descriptors that execve closes, in their order.
fn closed_by_execve(task: &mut FrozenTask, fds: &[i32]) -> Result<Vec<i32>, Problem> {
    let mut closed = Vec::new();
    let Some(agent) = &mut task.agent else { return Ok(closed) };
    let mut rest = fds.iter().copied().peekable();
    while rest.peek().is_some() {
        let mut batch = Batch::new();
        let mut asked: Vec<(i32, CallId)> = Vec::new();
        while let Some(fd) = rest.next_if(|_| !batch.is_nearly_full(1, 0)) {
            asked.push((fd, batch.call("fcntl(F_GETFD)", libc::SYS_fcntl, args![fd, libc::F_GETFD])));
        }
        let replies = agent.run(&batch)?;
        for (fd, call) in asked {
            if replies.result(call)? & i64::from(libc::FD_CLOEXEC) != 0 {
                closed.push(fd);
            }
        }
    }
    Ok(closed)
}
