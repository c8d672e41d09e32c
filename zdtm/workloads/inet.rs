//! Internet addresses as the kernel lays them out.

/// The loopback address with a port.
pub(crate) fn loopback(family: i32, port: u16) -> Vec<u8> {
    let mut bytes = (family as u16).to_ne_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    if family == libc::AF_INET6 {
        bytes.extend([0; 4]);
        bytes.extend(std::net::Ipv6Addr::LOCALHOST.octets());
        bytes.extend([0; 4]);
    } else {
        bytes.extend([127, 0, 0, 1]);
        bytes.extend([0; 8]);
    }
    bytes
}

/// The same of an address of version 4.
pub(crate) fn address(address: std::net::SocketAddrV4) -> Vec<u8> {
    let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    bytes.extend(address.ip().octets());
    bytes.extend([0; 8]);
    bytes
}
