//! Raw and ICMP sockets keep family, type, protocol, address and filter.

use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

fn make(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: socket takes numbers only.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    nix::errno::Errno::result(fd)?;
    // SAFETY: the kernel just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

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
