//! A process that gave up new privileges does not get them back, and its sibling is not affected.

use nix::sys::prctl::{get_no_new_privs, set_no_new_privs};
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        set_no_new_privs()?;
        cx.post("child-ready")?;
        cx.park()?;
        ensure!(get_no_new_privs()?, "no_new_privs is lost");
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    ensure!(!get_no_new_privs()?, "no_new_privs came from nowhere");
    child.join()
}
