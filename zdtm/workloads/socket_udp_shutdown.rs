//! UDP sockets whose directions are shut down, joined groups, and a raw and an ICMP socket.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let a = UdpSocket::bind("127.0.0.1:0")?;
    let b = UdpSocket::bind("127.0.0.1:0")?;
    a.connect(b.local_addr()?)?;
    b.connect(a.local_addr()?)?;
    shutdown(a.as_raw_fd(), Shutdown::Write)?;
    b.join_multicast_v4(&"239.1.2.3".parse()?, &Ipv4Addr::LOCALHOST)?;
    b.set_multicast_ttl_v4(7)?;
    b.set_broadcast(true)?;
    cx.barrier()?;
    let sent = send(a.as_raw_fd(), b"x", MsgFlags::MSG_NOSIGNAL);
    ensure_eq!(sent, Err(nix::errno::Errno::EPIPE), "sending after SHUT_WR");
    b.send(b"one way")?;
    let mut buffer = [0; 16];
    let length = a.recv(&mut buffer)?;
    ensure_eq!(&buffer[..length], b"one way", "what was heard");
    ensure_eq!((b.multicast_ttl_v4()?, b.broadcast()?), (7, true), "options");
    b.leave_multicast_v4(&"239.1.2.3".parse()?, &Ipv4Addr::LOCALHOST)?;
    Ok(())
}
