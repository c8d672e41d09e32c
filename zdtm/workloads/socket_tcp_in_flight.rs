//! Connections that nobody has accepted are left out, and the listener goes on.

use std::net::TcpStream;

use zdtm::workload::{Context, Verdict};

use crate::{tcp, tcp_peer};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let peer = tcp_peer::find(cx)?;
    let (listener, address) = tcp_peer::listen_to(cx, peer)?;
    cx.wait_for("connected")?;
    cx.barrier()?;
    listener.set_nonblocking(true)?;
    // It was left out, or the original runs on and still has it.
    drop(listener.accept());
    listener.set_nonblocking(false)?;
    let next = TcpStream::connect(address)?;
    tcp::talk(&next, &listener.accept()?.0)
}
