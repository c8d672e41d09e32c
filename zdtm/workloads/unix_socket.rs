//! A process has one end of a unix connection whose other end belongs to a process outside its tree.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (mut own, mut other) = UnixStream::pair()?;
    // The peer's parent ends, so that the runner gets the peer: it is no longer in the tree.
    let middle = cx.child(|cx| {
        cx.child(|_| {
            let mut bytes = [0; 4];
            other.read_exact(&mut bytes)?;
            other.write_all(b"pong")?;
            exit_now(0)
        })?;
        Ok(())
    })?;
    middle.join()?;
    drop(other);
    cx.barrier()?;
    own.write_all(b"ping")?;
    let mut bytes = [0; 4];
    own.read_exact(&mut bytes)?;
    ensure_eq!(bytes, *b"pong", "the peer's answer");
    Ok(())
}
