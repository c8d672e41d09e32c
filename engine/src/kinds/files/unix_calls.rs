//! Calls that make unix sockets again: with queued packets, and on behalf of the tasks that made them first.

use std::os::fd::BorrowedFd;

use super::socket_queue::Saved;
use crate::args;
use crate::error::SysError;
use crate::sys::socket::{self, Along, Credentials};
use crate::tracee::batch::Batch;

/// Sends one packet; a stream takes it in pieces.
pub(super) fn send(
    sender: BorrowedFd<'_>,
    packet: &Saved,
    along: &Along<'_>,
    is_stream: bool,
) -> Result<(), SysError> {
    let mut sent = socket::send(sender, &packet.bytes, along, libc::MSG_DONTWAIT)?;
    while is_stream && sent < packet.bytes.len() {
        let rest = packet.bytes.get(sent..).unwrap_or_default();
        sent += socket::send(sender, rest, &Along::default(), libc::MSG_DONTWAIT)?;
    }
    Ok(())
}

/// Credentials may be sent on behalf of processes that exist.
pub(super) fn exists(who: &Credentials) -> bool {
    std::path::Path::new(&format!("/proc/{}", who.pid)).exists()
}

/// Makes calls with a task's user and group, as the kernel notes them.
///
/// Ids for access to files stay as they are, so that the calls may do what ours may.
pub(super) fn as_somebody<'fd>(
    batch: &mut Batch<'fd>,
    who: Credentials,
    calls: impl FnOnce(&mut Batch<'fd>),
) {
    const SAME: i32 = -1;
    let us = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let (other_user, other_group) = (us.0 == 0 && who.uid != 0, us.0 == 0 && us.1 != who.gid);
    if other_group {
        batch.call("setresgid", libc::SYS_setresgid, args![SAME, who.gid, SAME]);
        batch.call("setfsgid", libc::SYS_setfsgid, args![us.1]);
    }
    if other_user {
        batch.call("setresuid", libc::SYS_setresuid, args![SAME, who.uid, SAME]);
        batch.call("setfsuid", libc::SYS_setfsuid, args![us.0]);
    }
    calls(batch);
    if other_user {
        batch.call("setresuid", libc::SYS_setresuid, args![SAME, us.0, SAME]);
    }
    if other_group {
        batch.call("setresgid", libc::SYS_setresgid, args![SAME, us.1, SAME]);
    }
}
