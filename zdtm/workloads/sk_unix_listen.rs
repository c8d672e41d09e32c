//! Connections wait to be accepted, in their order: by file, by hidden name, or by a file that was removed since.

use nix::sys::socket::{getsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let what = cx.args().get(1).cloned().unwrap_or_default();
    let kind = unix::kind(cx);
    let path = cx.path("listen.sock");
    let address = if what == "hidden" { unix::hidden("listen")? } else { unix::file(&path)? };
    let listener = unix::listening(kind, &address)?;
    let mut done = Vec::new();
    if what == "accepted" {
        // Some have been accepted before.
        let client = unix::connected(kind, &address)?;
        done.push((client, unix::accepted(&listener)?));
    }
    let waiting = (0..3).map(|_| unix::connected(kind, &address)).collect::<Result<Vec<_>, Failure>>()?;
    if what == "removed" {
        std::fs::remove_file(&path)?;
    }
    cx.barrier()?;
    for (client, server) in &done {
        unix::talk(client, server)?;
    }
    for (number, client) in waiting.iter().enumerate() {
        let words = [number as u8];
        unix::say(client, &words)?;
    }
    for (number, client) in waiting.iter().enumerate() {
        let server = unix::accepted(&listener)?;
        unix::hear(&server, &[number as u8])?;
        unix::talk(client, &server)?;
        let peer = getsockopt(&server, sockopt::PeerCredentials)?;
        ensure_eq!(peer.pid(), std::process::id() as i32, "pid of the peer");
    }
    Ok(())
}
