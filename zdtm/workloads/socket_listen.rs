//! Listening sockets accept connections again, on IPv4 and on IPv6, with the options that they had.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("[::1]:0")?];
    let addresses = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    setsockopt(&listeners[0].as_fd(), sockopt::KeepAlive, &true)?;
    setsockopt(&listeners[1].as_fd(), sockopt::TcpNoDelay, &true)?;
    cx.barrier()?;
    for (listener, address) in listeners.iter().zip(addresses) {
        ensure_eq!(listener.local_addr()?, address, "address");
        let mut client = TcpStream::connect(address)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"hello")?;
        let mut heard = [0; 5];
        server.read_exact(&mut heard)?;
        ensure_eq!(&heard, b"hello", "what the server heard");
    }
    ensure_eq!(getsockopt(&listeners[0].as_fd(), sockopt::KeepAlive)?, true, "SO_KEEPALIVE");
    ensure_eq!(getsockopt(&listeners[1].as_fd(), sockopt::TcpNoDelay)?, true, "TCP_NODELAY");
    Ok(())
}
