//! Accepted connections outlive their listener, and one of them its client; names and credentials stay.

use nix::sys::socket::{getsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let addresses = [unix::file(&cx.path("sk-unix01.sock"))?, unix::hidden("sk-unix01")?];
    let mut servers = Vec::new();
    let mut listeners = Vec::new();
    for address in &addresses {
        listeners.push(unix::listening(kind, address)?);
    }
    let child = cx.child(|cx| {
        let clients = [unix::connected(kind, &addresses[0])?, unix::connected(kind, &addresses[1])?];
        cx.park()?;
        for client in &clients {
            unix::hear(client, b"hello")?;
            ensure_eq!(
                getsockopt(client, sockopt::PeerCredentials)?.pid(),
                nix::unistd::getppid().as_raw(),
                "peer"
            );
        }
        exit_now(0)
    })?;
    for listener in &listeners {
        servers.push(unix::accepted(listener)?);
    }
    let short = unix::connected(kind, &addresses[0])?;
    let alone = unix::accepted(&listeners[0])?;
    unix::say(&short, b"farewell")?;
    drop((short, listeners));
    cx.barrier()?;
    for (server, address) in servers.iter().zip(&addresses) {
        ensure_eq!(unix::name(server)?, *address, "name");
        ensure_eq!(
            getsockopt(server, sockopt::PeerCredentials)?.pid(),
            child.pid.as_raw(),
            "pid of the peer"
        );
        unix::say(server, b"hello")?;
    }
    ensure_eq!(unix::name(&alone)?, addresses[0], "name");
    unix::hear(&alone, b"farewell")?;
    unix::hear(&alone, b"")?;
    child.join()
}
