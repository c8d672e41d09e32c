//! Multicast groups that a socket has joined.
//!
//! No call lists them. But `/proc/net/igmp` and `/proc/net/igmp6` list the groups of each interface, and a socket that is asked
//! for its filter of a group (`MCAST_MSFILTER`, RFC 3678) answers only if it has joined that group there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use proto::messages::StasisSocketOption;

use crate::error::SysError;
use crate::sys::socket::{get_option, set_option};
use crate::tcp_repair::packet::sockaddr;

/// From `include/uapi/linux/in.h`.
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
/// `struct group_filter`: interface, padding, group, mode, number of sources; then the sources.
const GROUP_AT: usize = 8;
const STORAGE: usize = 128;
const MODE_AT: usize = GROUP_AT + STORAGE;
const SOURCES_AT: usize = MODE_AT + 8;
const MOST_SOURCES: usize = 64;
/// The mode of a socket that joined without naming sources (`MCAST_EXCLUDE`).
const EXCLUDE: u32 = 0;

/// Every group of every interface that a socket has joined, as an option for [`join`].
pub(super) fn joined(socket: BorrowedFd<'_>, is_v6: bool) -> Vec<StasisSocketOption> {
    let mut groups = groups_v4(&read("/proc/net/igmp"));
    if is_v6 {
        groups.extend(groups_v6(&read("/proc/net/igmp6")));
    }
    groups.into_iter().filter_map(|(interface, group)| filter(socket, interface, group)).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn level(group: IpAddr) -> i32 {
    if group.is_ipv6() { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP }
}

/// `struct group_req`, with which `struct group_filter` begins.
fn request(interface: u32, group: IpAddr) -> Vec<u8> {
    let mut request = interface.to_ne_bytes().to_vec();
    request.resize(GROUP_AT, 0);
    request.extend(sockaddr(SocketAddr::new(group, 0)));
    request.resize(MODE_AT, 0);
    request
}

fn filter(socket: BorrowedFd<'_>, interface: u32, group: IpAddr) -> Option<StasisSocketOption> {
    let mut value = request(interface, group);
    value.extend([0; 4]);
    value.extend((MOST_SOURCES as u32).to_ne_bytes());
    value.resize(SOURCES_AT + MOST_SOURCES * STORAGE, 0);
    get_option(socket, level(group), MCAST_MSFILTER, &mut value).ok()?;
    let count = value.get(MODE_AT + 4..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))? as usize;
    value.truncate(SOURCES_AT + count.min(MOST_SOURCES) * STORAGE);
    Some(StasisSocketOption { level: level(group) as u32, name: MCAST_MSFILTER as u32, value })
}

/// Joins groups again.
pub(super) fn join(socket: BorrowedFd<'_>, options: &[StasisSocketOption]) -> Result<(), SysError> {
    for option in options.iter().filter(|option| option.name as i32 == MCAST_MSFILTER) {
        let level = option.level as i32;
        if ![libc::IPPROTO_IP, libc::IPPROTO_IPV6].contains(&level) {
            continue;
        }
        set_option(socket, level, MCAST_JOIN_GROUP, option.value.get(..MODE_AT).unwrap_or_default())?;
        let mode = option.value.get(MODE_AT..).and_then(<[u8]>::first_chunk).map(|b| u32::from_ne_bytes(*b));
        if mode != Some(EXCLUDE) || option.value.len() > SOURCES_AT {
            set_option(socket, level, MCAST_MSFILTER, &option.value)?;
        }
    }
    Ok(())
}

/// Groups of `/proc/net/igmp`: a line for each interface begins with its number, lines of its groups are indented.
fn groups_v4(text: &str) -> Vec<(u32, IpAddr)> {
    let mut interface = None;
    let mut groups = Vec::new();
    for line in text.lines().skip(1) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !line.starts_with(['\t', ' ']) {
            interface = first.parse().ok();
        } else if let (Some(interface), Ok(group)) = (interface, u32::from_str_radix(first, 16)) {
            // The bytes of the network, read as the machine reads words.
            groups.push((interface, Ipv4Addr::from(group.to_ne_bytes()).into()));
        }
    }
    groups
}

/// Groups of `/proc/net/igmp6`: the interface's number and name, and the group.
fn groups_v6(text: &str) -> Vec<(u32, IpAddr)> {
    let group = |line: &str| {
        let mut words = line.split_whitespace();
        let interface = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((interface, Ipv6Addr::from(group).into()))
    };
    text.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    #[test]
    fn tables_are_read() {
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        assert_eq!(groups_v4(igmp), [(1, "224.0.0.1".parse().unwrap())]);
        let igmp6 = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n";
        assert_eq!(groups_v6(igmp6), [(1, "ff02::1".parse().unwrap())]);
        assert_eq!((groups_v4("x\ny"), groups_v6("z")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_joined_group_is_found_and_joined_again() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.join_multicast_v4(&"239.7.7.7".parse().unwrap(), &Ipv4Addr::LOCALHOST).is_err() {
            return;
        }
        let found = joined(socket.as_fd(), false);
        assert_eq!(found.len(), 1);
        let other = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(joined(other.as_fd(), false), []);
        join(other.as_fd(), &found).unwrap();
        assert_eq!(joined(other.as_fd(), false), found);
    }
}
