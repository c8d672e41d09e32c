//! Sockets without an address: they can still get one, listen, and connect.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;

use nix::sys::socket::{Backlog, listen};
use zdtm::workload::{Context, Verdict};

use crate::{inet, raw_socket as raw, tcp};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let family =
        if cx.args().first().is_some_and(|word| word == "6") { libc::AF_INET6 } else { libc::AF_INET };
    let listener = raw::make(family, libc::SOCK_STREAM, 0)?;
    let client = raw::make(family, libc::SOCK_STREAM, 0)?;
    let bound = raw::make(family, libc::SOCK_STREAM, 0)?;
    let datagram = raw::make(family, libc::SOCK_DGRAM, 0)?;
    raw::bind(bound.as_fd(), &inet::loopback(family, 0))?;
    cx.barrier()?;
    // One gets its address by itself.
    listen(&listener, Backlog::new(5)?)?;
    let port = TcpListener::from(listener.try_clone()?).local_addr()?.port();
    let listener = TcpListener::from(listener);
    for client in [client, bound] {
        raw::connect(client.as_fd(), &inet::loopback(family, port))?;
        tcp::talk(&TcpStream::from(client), &listener.accept()?.0)?;
    }
    let datagram = UdpSocket::from(datagram);
    datagram.connect((if family == libc::AF_INET6 { "::1" } else { "127.0.0.1" }, port))?;
    Ok(())
}
