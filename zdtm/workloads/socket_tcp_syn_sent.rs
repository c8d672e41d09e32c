//! A connection is being asked for, and nobody answers yet: after the restore somebody does.

use std::net::TcpStream;
use std::os::fd::AsFd as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{inet, raw_socket as raw, tcp, tcp_peer};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // Its backlog is full: it answers nobody before the barrier.
    let peer = tcp_peer::find(cx)?;
    let fd = raw::make(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    let asked = raw::connect(fd.as_fd(), &inet::address(peer));
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
    Ok(())
}
