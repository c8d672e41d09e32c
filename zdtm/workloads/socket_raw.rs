//! Raw and ICMP sockets keep family, type, protocol, address and filter.

use std::os::fd::AsFd as _;

use nix::sys::socket::{getsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::raw_socket::make;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kinds: &[(i32, i32, i32)] = match cx.args().first().map(String::as_str) {
        Some("ping") => &[(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)],
        Some("ping6") => &[(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6)],
        Some("lite") => &[
            (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
            (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        ],
        _ => &[
            (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
            (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_UDP),
        ],
    };
    let sockets = kinds.iter().map(|(f, k, p)| make(*f, *k, *p)).collect::<Result<Vec<_>, _>>()?;
    cx.barrier()?;
    for (socket, (_, kind, _)) in sockets.iter().zip(kinds) {
        ensure_eq!(getsockopt(&socket.as_fd(), sockopt::SockType)? as i32, *kind, "type");
    }
    Ok(())
}
