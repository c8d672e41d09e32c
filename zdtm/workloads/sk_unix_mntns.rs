//! A unix socket of a child has its name in a mount namespace of its own; another with the same name is its parent's.

use nix::sched::CloneFlags;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{mounting, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let place = mounting::folder(cx, "place")?;
    let address = unix::file(&place.join("socket"))?;
    let listener = unix::listening(kind, &address)?;
    let child = cx.child(|cx| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        mounting::tmpfs(&place, "")?;
        let own = unix::listening(kind, &address)?;
        let early = unix::connected(kind, &address)?;
        cx.post("child")?;
        cx.park()?;
        ensure_eq!(unix::name(&own)?, address, "name of the child's socket");
        unix::talk(&early, &unix::accepted(&own)?)?;
        let late = unix::connected(kind, &address)?;
        unix::talk(&late, &unix::accepted(&own)?)
    })?;
    cx.wait_for("child")?;
    let early = unix::connected(kind, &address)?;
    cx.barrier()?;
    unix::talk(&early, &unix::accepted(&listener)?)?;
    let late = unix::connected(kind, &address)?;
    unix::talk(&late, &unix::accepted(&listener)?)?;
    child.join()
}
