//! Credentials and a time of its own: a packet keeps who sent it, also when nobody asked for credentials yet.

use std::io::IoSlice;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, UnixCredentials, sendmsg, setsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{scm, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    let own = UnixCredentials::new();
    let along = [ControlMessage::ScmCredentials(&own)];
    sendmsg::<UnixAddr>(a.as_raw_fd(), &[IoSlice::new(b"me")], &along, MsgFlags::empty(), None)?;
    unix::say(&a, b"no name")?;
    cx.barrier()?;
    setsockopt(&b, sockopt::PassCred, &true)?;
    let (_, credentials) = scm::receive(&b, b"me")?;
    ensure_eq!(
        credentials.map(|c| (c.pid(), c.uid(), c.gid())),
        Some((own.pid(), own.uid(), own.gid())),
        "sender"
    );
    let (_, credentials) = scm::receive(&b, b"no name")?;
    ensure_eq!(credentials.map(|c| c.pid()), Some(0), "sender of the second packet");
    Ok(())
}
