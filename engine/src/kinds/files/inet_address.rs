//! Internet addresses: as the kernel lays them out, and as images have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use proto::messages::InetSkEntry;

/// The address that stands for none, of a family.
pub(super) fn any(family: i32) -> SocketAddr {
    let ip = match family {
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

/// An address in the words of an image: the bytes of the network, read as the machine reads words.
pub(super) fn words(ip: IpAddr) -> Vec<u32> {
    match ip {
        IpAddr::V4(ip) => vec![u32::from_ne_bytes(ip.octets())],
        IpAddr::V6(ip) => ip.octets().as_chunks().0.iter().map(|b| u32::from_ne_bytes(*b)).collect(),
    }
}

/// An address of an image; `scope` is the interface of a link-local one.
pub(super) fn of_image(image: &InetSkEntry, words: &[u32], port: u32, scope: u32) -> Option<SocketAddr> {
    let octets: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let port = u16::try_from(port).ok()?;
    if image.family != libc::AF_INET6 as u32 {
        return Some(SocketAddr::new(IpAddr::from(*octets.first_chunk::<4>()?), port));
    }
    let ip = Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?);
    let scope = if ip.is_unicast_link_local() || ip.is_multicast() { scope } else { 0 };
    Some(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// Parses `struct sockaddr_in` or `struct sockaddr_in6`.
pub(super) fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => Some(SocketAddr::new(IpAddr::from(*bytes.get(4..)?.first_chunk::<4>()?), port)),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?);
            let scope = bytes.get(24..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

/// The interface of a link-local address, by number.
pub(super) fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// The name of an interface; none has the number 0.
pub(super) fn interface_name(index: u32) -> Option<String> {
    if index == 0 {
        return None;
    }
    interfaces().find(|(_, i)| *i == index).map(|(name, _)| name)
}

/// The number of an interface.
pub(super) fn interface_index(name: &str) -> Option<u32> {
    interfaces().find(|(known, _)| known == name).map(|(_, index)| index)
}

fn interfaces() -> impl Iterator<Item = (String, u32)> {
    let devices = nix::net::if_::if_nameindex().ok();
    let all = devices.iter().flat_map(nix::net::if_::Interfaces::iter);
    let known = all.filter_map(|device| Some((device.name().to_str().ok()?.to_owned(), device.index())));
    known.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp_repair::packet::sockaddr;
    use rstest::rstest;

    #[rstest]
    #[case("127.0.0.1:80")]
    #[case("0.0.0.0:65535")]
    #[case("[::1]:443")]
    #[case("[fe80::1:2]:1")]
    fn addresses_survive(#[case] text: &str) {
        let address: SocketAddr = text.parse().unwrap();
        assert_eq!(parse(&sockaddr(address)), Some(address));
        let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u32;
        let image = InetSkEntry { family, ..InetSkEntry::default() };
        assert_eq!(of_image(&image, &words(address.ip()), address.port().into(), 0), Some(address));
    }

    #[test]
    fn impossible_addresses_are_none() {
        let image = InetSkEntry { family: libc::AF_INET6 as u32, ..InetSkEntry::default() };
        assert_eq!(of_image(&image, &[1], 1, 0), None);
        assert_eq!(of_image(&image, &[0; 4], 70_000, 0), None);
        assert_eq!(parse(&[2, 0, 0]), None);
    }
}
