//! A connection is being asked for, and nobody answers yet: after the restore somebody does.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::{inet, raw_socket as raw, tcp};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (listener, address) = tcp::listen("127.0.0.1:0")?;
    let mut listener = Some(listener);
    tcp::outsider(cx, |cx| {
        let listener = listener.take().ok_or_else(|| Failure::new("no listener"))?;
        // A full backlog: whoever asks next is not answered.
        listen(&listener, Backlog::new(0)?)?;
        let first = TcpStream::connect(address)?;
        cx.post("full")?;
        cx.park()?;
        let (server, _) = listener.accept()?;
        tcp::talk(&server, &first)?;
        serve(&listener)
    })?;
    drop(listener.take());
    cx.wait_for("full")?;
    let fd = raw::make(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    let asked = raw::connect(fd.as_fd(), &inet::loopback(libc::AF_INET, address.port()));
    ensure_eq!(asked.is_err(), true, "connecting is not done at once");
    let state = || raw::get(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, 1);
    // TCP_SYN_SENT of include/net/tcp_states.h.
    ensure_eq!(state()?, [2], "state before the dump");
    let name = raw::address(fd.as_fd())?;
    cx.barrier()?;
    ensure_eq!(raw::address(fd.as_fd())?, name, "address");
    let mut polled = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLOUT)];
    nix::poll::poll(&mut polled, 20_000_u16)?;
    let error = raw::get(fd.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR, 4)?;
    ensure_eq!(error, [0; 4], "error of the connection");
    ensure_eq!(state()?, [1], "state after somebody answered");
    let client = TcpStream::from(fd);
    client.set_nonblocking(false)?;
    tcp::hear(&client, b"welcome")?;
    drop(client);
    cx.wait_for("outsider")
}

fn serve(listener: &TcpListener) -> Verdict {
    let (server, _) = listener.accept()?;
    server.set_read_timeout(Some(Duration::from_secs(20)))?;
    tcp::say(&server, b"welcome")?;
    tcp::hear_end(&server)
}
