//! A tree three levels deep keeps its shape.

use nix::unistd::{getpid, getppid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict};

const DEPTH: u32 = 3;
const WIDTH: u32 = 3;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let children = grow(cx, "root", 1)?;
    cx.barrier()?;
    children.into_iter().try_for_each(Child::join)
}

fn grow(cx: &Context, name: &str, depth: u32) -> Result<Vec<Child>, Failure> {
    let mut children = Vec::new();
    let parent = getpid();
    for number in 0..WIDTH {
        let name = format!("{name}-{number}");
        children.push(cx.child(|cx| {
            let children = if depth < DEPTH { grow(cx, &name, depth + 1)? } else { Vec::new() };
            cx.post(&name)?;
            cx.park()?;
            ensure_eq!(getppid(), parent, format!("parent of {name}"));
            children.into_iter().try_for_each(Child::join)
        })?);
    }
    (0..WIDTH).try_for_each(|number| cx.wait_for(&format!("{name}-{number}")))?;
    Ok(children)
}
