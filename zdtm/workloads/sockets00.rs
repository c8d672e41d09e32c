//! A server and a client in one process: one listens, one connection is open, and new ones can be made.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let address = unix::file(&cx.path("sockets00.sock"))?;
    let listener = unix::listening(kind, &address)?;
    let client = unix::connected(kind, &address)?;
    let server = unix::accepted(&listener)?;
    unix::say(&client, b"on its way")?;
    cx.barrier()?;
    unix::hear(&server, b"on its way")?;
    unix::talk(&client, &server)?;
    ensure_eq!((unix::name(&server)?, unix::peer_name(&client)?), (address, address), "names");
    let next = unix::connected(kind, &address)?;
    unix::talk(&next, &unix::accepted(&listener)?)
}
