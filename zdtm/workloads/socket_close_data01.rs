//! Datagrams wait whose sender is gone, and the sender's name with them.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::SockType::Datagram;
use nix::sys::socket::{UnixAddr, recvfrom};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let address = unix::file(&cx.path("receiver.sock"))?;
    let receiver = unix::bound(Datagram, &address)?;
    let names = [unix::file(&cx.path("sender.sock"))?, unix::hidden("sender")?];
    for name in &names {
        let sender = unix::bound(Datagram, name)?;
        nix::sys::socket::connect(sender.as_raw_fd(), &address)?;
        unix::say(&sender, b"the last words")?;
    }
    let unnamed = unix::connected(Datagram, &address)?;
    unix::say(&unnamed, b"no name")?;
    drop(unnamed);
    cx.barrier()?;
    let mut buffer = [0; 64];
    for name in &names {
        let (length, from) = recvfrom::<UnixAddr>(receiver.as_raw_fd(), &mut buffer)?;
        ensure_eq!(&buffer[..length], b"the last words", "words");
        ensure_eq!(from.as_ref(), Some(name), "sender");
    }
    unix::hear(&receiver, b"no name")
}
