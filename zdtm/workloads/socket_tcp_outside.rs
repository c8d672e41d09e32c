//! A TCP connection over a pair of network devices: the peer outside sends and resends while nobody is there to answer, and
//! is never told that there is no connection.

use std::net::TcpStream;

use zdtm::workload::{Context, Verdict};

use crate::{socket_tcp, tcp_peer};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let peer = tcp_peer::find(cx)?;
    socket_tcp::talk_across(cx, &TcpStream::connect(peer)?, socket_tcp::SOME)
}
