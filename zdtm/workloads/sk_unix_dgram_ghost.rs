//! A datagram socket listens on a name whose file was removed, and its clients still reach it; so does a second one.

use nix::sys::socket::SockType::Datagram;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("ghost.sock");
    let address = unix::file(&path)?;
    let mut servers = Vec::new();
    for _ in 0..2 {
        let server = unix::bound(Datagram, &address)?;
        let clients = [unix::connected(Datagram, &address)?, unix::connected(Datagram, &address)?];
        std::fs::remove_file(&path)?;
        unix::say(&clients[0], b"early")?;
        servers.push((server, clients));
    }
    cx.barrier()?;
    ensure!(!path.exists(), "the socket's file came back");
    for (server, clients) in &servers {
        ensure_eq!(unix::name(server)?, address, "name");
        unix::hear(server, b"early")?;
        for client in clients {
            unix::say(client, b"late")?;
            unix::hear(server, b"late")?;
        }
    }
    Ok(())
}
