//! Two processes talk through two crossed pipes.

use std::fs::File;
use std::io::{Read as _, Write as _};

use nix::unistd::pipe;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 10_000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (to_child_out, to_child_in) = pipe()?;
    let (to_parent_out, to_parent_in) = pipe()?;
    let child = cx.child(|cx| {
        let mut from_parent = File::from(to_child_out.try_clone()?);
        let mut to_parent = File::from(to_parent_in.try_clone()?);
        cx.post("child-ready")?;
        cx.park()?;
        let mut bytes = vec![0; LENGTH];
        from_parent.read_exact(&mut bytes)?;
        check_pattern(&bytes, 1, "parent to child")?;
        to_parent.write_all(&pattern(2, LENGTH))?;
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    File::from(to_child_in).write_all(&pattern(1, LENGTH))?;
    let mut bytes = vec![0; LENGTH];
    File::from(to_parent_out).read_exact(&mut bytes)?;
    check_pattern(&bytes, 2, "child to parent")?;
    child.join()
}
