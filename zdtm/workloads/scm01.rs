//! Both ends of a pipe are in flight, in two packets, of a sender that was closed since.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{scm, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    let (reader, writer) = nix::unistd::pipe()?;
    scm::send(&a, b"r", &[&reader])?;
    scm::send(&a, b"w", &[&writer])?;
    drop((a, reader, writer));
    cx.barrier()?;
    let (readers, _) = scm::receive(&b, b"r")?;
    let (writers, _) = scm::receive(&b, b"w")?;
    ensure_eq!((readers.len(), writers.len()), (1, 1), "descriptors");
    unix::say(&writers[0], b"through")?;
    unix::hear(&readers[0], b"through")?;
    let mut nothing = [0; 1];
    ensure_eq!(nix::unistd::read(&b, &mut nothing)?, 0, "the end");
    Ok(())
}
