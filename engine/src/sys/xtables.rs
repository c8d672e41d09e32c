//! Tables of iptables: `include/uapi/linux/netfilter_ipv4/ip_tables.h`.

use std::os::fd::BorrowedFd;

use super::socket::set_option;
use crate::error::SysError;

/// `IPT_SO_SET_REPLACE` and `IP6T_SO_SET_REPLACE`.
const REPLACE: i32 = 64;
/// What of `struct ipt_replace` is in front of the pointer to the counters.
const BEFORE: usize = 88;

/// Replaces a table. `header` is what the structure begins with, up to the number of counters, which the kernel writes to
/// `counters`, 16 bytes each: as many of them as `header` says.
pub fn replace(
    fd: BorrowedFd<'_>,
    level: i32,
    header: &[u8],
    counters: &mut [u8],
    entries: &[u8],
) -> Result<(), SysError> {
    let mut value = header.to_vec();
    value.resize(BEFORE, 0);
    let told = value.get(BEFORE - 4..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
    assert!(told as usize <= counters.len() / 16, "there is room for the counters");
    // The kernel writes there while the call lasts, for which the buffer is borrowed.
    value.extend(counters.as_mut_ptr().expose_provenance().to_ne_bytes());
    value.extend(entries);
    set_option(fd, level, REPLACE, &value)
}
