//! A TCP connection over a pair of network devices: the peer outside sends and resends while nobody is there to answer, and
//! is never told that there is no connection.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, pattern};

use crate::{socket_tcp, tcp_peer};

/// Bytes before the dump.
const FIRST: usize = 1000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let peer = tcp_peer::find(cx)?;
    let stream = TcpStream::connect(peer)?;
    let addresses = (stream.local_addr()?, stream.peer_addr()?);
    let mut first = vec![0; FIRST];
    (&stream).read_exact(&mut first)?;
    (&stream).write_all(&pattern(2, FIRST))?;
    cx.barrier()?;
    ensure_eq!((stream.local_addr()?, stream.peer_addr()?), addresses, "addresses");
    socket_tcp::talk(&stream, [2, 1], socket_tcp::SOME, first, FIRST)
}
