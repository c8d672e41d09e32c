//! Both ends of a connection that is over: nothing comes or goes any more, but what waits is still read.
//!
//! The argument says which end is asked: that which was closed last (`last-ack`), or first. Both are there at the dump.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::{raw_socket as raw, tcp};

/// From `include/net/tcp_states.h`.
const CLOSE: u8 = 7;

/// Waits until a socket has no connection any more.
fn wait_for_close(stream: &TcpStream) -> Verdict {
    let end = Instant::now() + Duration::from_secs(5);
    // The first byte of `struct tcp_info`.
    while raw::get(stream.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, 1)?[0] != CLOSE {
        ensure!(Instant::now() < end, "it is not closed");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What is left of an end of a connection: words that nobody has read, its own address, and no peer.
fn check(stream: &TcpStream, words: &[u8], address: std::net::SocketAddr) -> Verdict {
    wait_for_close(stream)?;
    ensure_eq!(stream.local_addr()?, address, "its own address");
    ensure!(stream.peer_addr().is_err(), "it has a peer");
    ensure_eq!(stream.take_error()?.map(|e| e.kind()), None, "error");
    tcp::hear(stream, words)?;
    tcp::hear_end(stream)?;
    let written = { stream }.write(b"anybody?").map_err(|e| e.kind());
    ensure_eq!(written, Err(std::io::ErrorKind::BrokenPipe), "writing");
    ensure_eq!({ stream }.read(&mut [0; 1])?, 0, "bytes behind the end");
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (client, server) = tcp::connect(tcp::host(cx))?;
    tcp::say(&server, b"from the server")?;
    tcp::say(&client, b"from the client")?;
    let addresses = [client.local_addr()?, server.local_addr()?];
    // Whoever ends first waits for the other (TIME_WAIT), whoever ends last for its answer (LAST_ACK).
    let is_last = cx.args().get(1).is_some_and(|how| how == "last-ack");
    let (first, last) = if is_last { (&server, &client) } else { (&client, &server) };
    first.shutdown(Shutdown::Write)?;
    last.shutdown(Shutdown::Write)?;
    wait_for_close(first)?;
    wait_for_close(last)?;
    // Of the other end, nothing is left at all.
    let server = if is_last {
        drop(server);
        None
    } else {
        Some(server)
    };
    cx.barrier()?;
    check(&client, b"from the server", addresses[0])?;
    server.map_or(Ok(()), |server| check(&server, b"from the client", addresses[1]))
}
