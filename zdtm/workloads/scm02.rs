//! A socket is in flight in its own queue.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{scm, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    scm::send(&a, b"yourself", &[&b])?;
    cx.barrier()?;
    let (fds, _) = scm::receive(&b, b"yourself")?;
    ensure_eq!(fds.len(), 1, "descriptors");
    drop(b);
    unix::talk(&a, &fds[0])
}
