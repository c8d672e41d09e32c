//! Sockets are in flight in each other's queues, and can be reached through a third only.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{scm, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let (a, b) = unix::pair(kind)?;
    let (c, d) = unix::pair(kind)?;
    let (e, f) = unix::pair(kind)?;
    scm::send(&a, b"d to b", &[&d])?;
    scm::send(&c, b"b to d", &[&b])?;
    scm::send(&e, b"b to f", &[&b])?;
    drop((b, d, e));
    cx.barrier()?;
    let (fds, _) = scm::receive(&f, b"b to f")?;
    ensure_eq!(fds.len(), 1, "descriptors");
    let (inner, _) = scm::receive(&fds[0], b"d to b")?;
    let (innermost, _) = scm::receive(&inner[0], b"b to d")?;
    unix::talk(&c, &inner[0])?;
    unix::talk(&a, &innermost[0])
}
