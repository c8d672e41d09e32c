//! TCP sockets whose connection is over: data may wait in them, and an error; there is no peer any more.
//!
//! One is made by connecting to ourselves, and having the other end reset the connection. It gets its address back as if the
//! kernel had chosen it for a connection, which gives the port free at the end of that; a port that was asked for by bind(2) would
//! stay taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use proto::messages::{InetSkEntry, StasisSocketEntry};

use super::inet;
use super::socket_queue::Saved;
use crate::error::{Problem, SysError};
use crate::sys::socket::{self, get_number, set_number, set_option};
use crate::tcp_repair::packet::sockaddr;
use crate::tcp_repair::{self, State};

/// `IP_LOCAL_PORT_RANGE` of `include/uapi/linux/in.h` (Linux 6.3): the lowest port in the lower half, the highest in the upper.
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// Makes a socket whose connection is over: with an error, or quietly.
pub(super) fn make(
    image: &InetSkEntry,
    address: Option<SocketAddr>,
    own: &StasisSocketEntry,
    data: &[Saved],
) -> Result<OwnedFd, Problem> {
    let (fd, peer) = connect(image, address)?;
    let mut len = 0;
    for packet in data {
        nix::unistd::write(&peer, &packet.bytes).map_err(SysError::of("write"))?;
        len += packet.bytes.len();
    }
    let linger = [1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
    set_option(peer.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger)?;
    wait_until(|| Ok(socket::queued(fd.as_fd())? as usize >= len))?;
    drop(peer);
    wait_until(|| Ok(tcp_repair::state(fd.as_fd())?.0 == State::Close))?;
    if own.reset != Some(true) {
        // Asking for the error takes it away.
        get_number(fd.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR)?;
    }
    Ok(fd)
}

/// Waits for what comes over the loopback device, as a rule at once.
fn wait_until(done: impl Fn() -> Result<bool, SysError>) -> Result<(), SysError> {
    for _ in 0..1000 {
        if done()? {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A connection to ourselves: from its address, if that can be had, or from any.
fn connect(image: &InetSkEntry, address: Option<SocketAddr>) -> Result<(OwnedFd, OwnedFd), Problem> {
    if let Some(address) = address.filter(|address| address.port() != 0) {
        match connect_from(image, Some(address)) {
            Err(problem) => log::debug!("the address {address} cannot be had again: {}", problem.cause),
            made => return made,
        }
    }
    connect_from(image, None)
}

fn connect_from(image: &InetSkEntry, address: Option<SocketAddr>) -> Result<(OwnedFd, OwnedFd), Problem> {
    let is_v6 = image.family as i32 == libc::AF_INET6;
    let any = if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let host: IpAddr = address.map_or(any, |address| address.ip());
    let fd = socket::create(image.family as i32, image.r#type as i32, image.proto as i32)?;
    inet::before_binding(fd.as_fd(), image)?;
    let listener = TcpListener::bind(SocketAddr::new(host, 0)).map_err(SysError::io("bind"))?;
    let to = listener.local_addr().map_err(SysError::io("getsockname"))?;
    match address {
        Some(address) => {
            let port = u32::from(address.port());
            set_number(fd.as_fd(), libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, (port << 16 | port) as i32)?;
            choose_port_later(fd.as_fd(), address)?;
            socket::connect(fd.as_fd(), &sockaddr(to))?;
            set_number(fd.as_fd(), libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0)?;
        }
        None => socket::connect(fd.as_fd(), &sockaddr(to))?,
    }
    let peer = socket::accept(listener.as_fd())?;
    Ok((fd, peer))
}

/// Binds a socket to an address alone: its port is chosen as it connects.
fn choose_port_later(fd: BorrowedFd<'_>, address: SocketAddr) -> Result<(), SysError> {
    set_number(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let mut any = address;
    any.set_port(0);
    socket::bind(fd, &sockaddr(any))?;
    set_number(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::End;

    #[test]
    fn the_address_comes_back_and_is_free() {
        let image = InetSkEntry {
            family: libc::AF_INET as u32,
            r#type: libc::SOCK_STREAM as u32,
            proto: libc::IPPROTO_TCP as u32,
            ..InetSkEntry::default()
        };
        // Of a connection that was.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let address = client.local_addr().unwrap();
        let server = listener.accept().unwrap().0;
        set_option(server.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        drop((server, client));
        let own = StasisSocketEntry { reset: Some(true), ..StasisSocketEntry::default() };
        let data = [Saved { bytes: b"the last words".into(), ..Saved::default() }];
        let made = make(&image, Some(address), &own, &data).unwrap();
        assert_eq!(tcp_repair::state(made.as_fd()).unwrap().0, State::Close);
        assert_eq!(socket::address(made.as_fd(), End::Own).unwrap(), sockaddr(address));
        assert_eq!(socket::queued(made.as_fd()).unwrap(), 14);
        TcpListener::bind(address).unwrap();
    }
}
