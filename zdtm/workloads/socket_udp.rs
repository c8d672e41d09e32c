//! UDP sockets keep their addresses: a bound one hears, and a connected one still knows its peer.

use std::net::UdpSocket;
use std::time::Duration;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let host = if cx.args().first().is_some_and(|word| word == "6") { "[::1]:0" } else { "127.0.0.1:0" };
    let server = UdpSocket::bind(host)?;
    let client = UdpSocket::bind(host)?;
    client.connect(server.local_addr()?)?;
    let (at, from) = (server.local_addr()?, client.local_addr()?);
    cx.barrier()?;
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.send(b"to whom it was")?;
    let mut heard = [0; 64];
    let (length, sender) = server.recv_from(&mut heard)?;
    ensure_eq!(&heard[..length], b"to whom it was", "what the server heard");
    ensure_eq!((server.local_addr()?, client.local_addr()?, sender), (at, from, from), "addresses");
    Ok(())
}
