//! A connection made through a file that was removed since goes on, and both ends know the name.

use nix::sys::socket::SockType;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("deleted.sock");
    let address = unix::file(&path)?;
    let listener = unix::listening(SockType::Stream, &address)?;
    let client = unix::connected(SockType::Stream, &address)?;
    let server = unix::accepted(&listener)?;
    std::fs::remove_file(&path)?;
    unix::say(&client, b"before")?;
    cx.barrier()?;
    unix::hear(&server, b"before")?;
    unix::talk(&client, &server)?;
    ensure_eq!(unix::name(&server)?, address, "name of the server");
    ensure_eq!(unix::peer_name(&client)?, address, "name of the client's peer");
    ensure_eq!(unix::name(&listener)?, address, "name of the listener");
    Ok(())
}
