//! Several listeners at one port, which share the connections.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::{inet, raw_socket as raw};

const LISTENERS: usize = 3;
const CONNECTIONS: usize = 60;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = 0;
    for _ in 0..LISTENERS {
        let fd = raw::make(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        setsockopt(&fd, sockopt::ReusePort, &true)?;
        raw::bind(fd.as_fd(), &inet::loopback(libc::AF_INET, port))?;
        listen(&fd, Backlog::new(100)?)?;
        let listener = TcpListener::from(fd);
        port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    cx.barrier()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let clients =
        (0..CONNECTIONS).map(|_| Ok(TcpStream::connect(address)?)).collect::<Result<Vec<_>, Failure>>()?;
    let mut got = Vec::new();
    for listener in &listeners {
        ensure_eq!(listener.local_addr()?, address, "address");
        listener.set_nonblocking(true)?;
        got.push(std::iter::from_fn(|| listener.accept().ok()).count());
    }
    ensure_eq!(got.iter().sum::<usize>(), clients.len(), "connections that were accepted");
    ensure!(got.iter().all(|count| *count > 0), "connections for each listener: {got:?}");
    Ok(())
}
