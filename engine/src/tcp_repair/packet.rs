//! Packets as a peer would send them, made by hand and sent over the loopback device to a socket of this machine.
//!
//! A raw socket takes a packet with any source address (raw(7)), and one for an address of our own comes right back.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use crate::error::SysError;
use crate::sys::socket::{self, Along, set_number};

/// The mark on our packets (`SO_MARK`), by which a network lock knows and passes them.
pub const MARK: u32 = 0x5374_6173;

/// Which flags a segment carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// An acknowledgement.
    Ack,
    /// That, and the end of the peer's sequence.
    FinAck,
}

/// A TCP segment without data.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Who is to have sent it.
    pub from: SocketAddr,
    /// The socket that gets it.
    pub to: SocketAddr,
    /// Its sequence number.
    pub seq: u32,
    /// What it acknowledges.
    pub ack: u32,
    /// The window, in bytes.
    pub window: u32,
    /// How far the window is shifted.
    pub scale: u8,
    /// What it says.
    pub flags: Flags,
}

impl Segment {
    /// Sends it to the socket.
    pub fn inject(&self) -> Result<(), SysError> {
        let mut header = Vec::with_capacity(20);
        header.extend(self.from.port().to_be_bytes());
        header.extend(self.to.port().to_be_bytes());
        header.extend(self.seq.to_be_bytes());
        header.extend(self.ack.to_be_bytes());
        // Five words, without options: the kernel asks for no time stamps, and learns none that would spoil the peer's own.
        header.push(5 << 4);
        header.push(if self.flags == Flags::Ack { 0x10 } else { 0x11 });
        let window = u16::try_from(self.window >> self.scale).unwrap_or(u16::MAX);
        header.extend(window.to_be_bytes());
        // Checksum and urgent pointer.
        header.extend([0; 4]);
        inject(libc::IPPROTO_TCP as u8, self.from, self.to, header, 16)
    }
}

/// A datagram of UDP.
pub fn inject_datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<(), SysError> {
    let mut datagram = Vec::with_capacity(8 + payload.len());
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0; 2]);
    datagram.extend(payload);
    inject(libc::IPPROTO_UDP as u8, from, to, datagram, 6)
}

/// Sends a payload of IP to ourselves; its checksum belongs at `checksum_at`.
fn inject(
    protocol: u8,
    from: SocketAddr,
    to: SocketAddr,
    mut payload: Vec<u8>,
    checksum_at: usize,
) -> Result<(), SysError> {
    let (from, to_ip) = (plain(from.ip()), plain(to.ip()));
    let sum = checksum(protocol, from, to_ip, &payload);
    if let Some(place) = payload.get_mut(checksum_at..checksum_at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    let family = if to_ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let raw = socket::create(family, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    set_number(raw.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)?;
    set_number(raw.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 1 << 18)?;
    let mut packet = header(protocol, from, to_ip, payload.len());
    packet.extend(payload);
    let scope = match to {
        SocketAddr::V6(to) => to.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let mut address = sockaddr(SocketAddr::new(to_ip, 0));
    if let Some(place) = address.get_mut(24..28) {
        place.copy_from_slice(&scope.to_ne_bytes());
    }
    socket::send(raw.as_fd(), &packet, &Along { to: &address, ..Along::default() }, 0)?;
    Ok(())
}

/// An IPv4 address that was mapped into IPv6 travels as IPv4.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// An address as `struct sockaddr_in` or `struct sockaddr_in6`.
pub fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    bytes.extend((family as u16).to_ne_bytes());
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            bytes.extend([0; 4]);
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// The header of IP; the kernel fills in the checksum of IPv4, and its length.
fn header(protocol: u8, from: IpAddr, to: IpAddr, len: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(40);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x45, 0]);
            header.extend(((20 + len) as u16).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([0x60, 0, 0, 0]);
            header.extend((len as u16).to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(wide(from));
            header.extend(wide(to));
        }
    }
    header
}

fn wide(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The checksum of TCP and UDP, over the addresses, too (RFC 1071).
fn checksum(protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(payload);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let mut sum: u32 = bytes.as_chunks().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_datagram_comes_from_whom_we_say() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        for (to, from) in [("127.0.0.1:0", "192.0.2.7:4242"), ("[::1]:0", "[2001:db8::7]:4242")] {
            let socket = UdpSocket::bind(to).unwrap();
            let from: SocketAddr = from.parse().unwrap();
            inject_datagram(from, socket.local_addr().unwrap(), b"hello").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 16];
            assert_eq!(socket.recv_from(&mut buffer).unwrap(), (5, from));
        }
    }
}
