//! Both ends of a TCP connection are in the tree; data waits in both directions, and its addresses stay.

use std::net::TcpStream;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

use crate::tcp;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (listener, address) = tcp::listen(tcp::host(cx))?;
    // Programs that never ask for it have no SO_REUSEADDR, and their connections are at the listener's port all the same.
    setsockopt(&listener, sockopt::ReuseAddr, &false)?;
    let client = TcpStream::connect(address)?;
    let server = listener.accept()?.0;
    tcp::say(&client, b"to the server")?;
    tcp::say(&server, b"to the client")?;
    let addresses = (client.local_addr()?, client.peer_addr()?);
    client.set_nodelay(true)?;
    let child = cx.child(|cx| {
        cx.park()?;
        tcp::hear(&server, b"to the server")?;
        tcp::say(&server, b"and more")?;
        tcp::hear(&server, b"thanks")?;
        exit_now(0)
    })?;
    drop(server);
    cx.barrier()?;
    tcp::hear(&client, b"to the client")?;
    tcp::hear(&client, b"and more")?;
    tcp::say(&client, b"thanks")?;
    ensure_eq!((client.local_addr()?, client.peer_addr()?), addresses, "addresses");
    ensure_eq!(client.nodelay()?, true, "TCP_NODELAY");
    ensure_eq!(getsockopt(&listener, sockopt::ReuseAddr)?, false, "SO_REUSEADDR");
    let next = TcpStream::connect(address)?;
    tcp::talk(&next, &listener.accept()?.0)?;
    child.join()
}
