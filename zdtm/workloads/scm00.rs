//! The reading end of a pipe is in flight in a socket, and nowhere else.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{scm, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    let (reader, writer) = nix::unistd::pipe()?;
    scm::send(&a, b"a pipe", &[&reader])?;
    drop(reader);
    unix::say(&writer, b"into the pipe")?;
    cx.barrier()?;
    let (fds, _) = scm::receive(&b, b"a pipe")?;
    ensure_eq!(fds.len(), 1, "descriptors");
    unix::hear(&fds[0], b"into the pipe")?;
    unix::say(&writer, b"more")?;
    unix::hear(&fds[0], b"more")
}
