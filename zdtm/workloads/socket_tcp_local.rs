//! Both ends of a TCP connection are in the tree; data waits in both directions, and its addresses stay.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

use crate::tcp;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (client, server) = tcp::connect(tcp::host(cx))?;
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
    child.join()
}
