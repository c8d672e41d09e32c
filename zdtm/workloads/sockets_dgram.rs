//! Datagram sockets: bound and connected to each other, connected one way, and to one that is gone.

use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::SockType::Datagram;
use nix::sys::socket::{UnixAddr, connect, recvfrom};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let names = [unix::file(&cx.path("a.sock"))?, unix::file(&cx.path("b.sock"))?, unix::hidden("c")?];
    let [a, b, c] = [
        unix::bound(Datagram, &names[0])?,
        unix::bound(Datagram, &names[1])?,
        unix::bound(Datagram, &names[2])?,
    ];
    connect(a.as_raw_fd(), &names[1])?;
    connect(b.as_raw_fd(), &names[0])?;
    let client = unix::connected(Datagram, &names[2])?;
    unix::say(&a, b"early")?;
    unix::say(&client, b"early")?;
    let gone_name = unix::hidden("gone")?;
    let gone = unix::bound(Datagram, &gone_name)?;
    let lonely = unix::connected(Datagram, &gone_name)?;
    drop(gone);
    let (d, e) = unix::pair(Datagram)?;
    connect(d.as_raw_fd(), &names[2])?;
    cx.barrier()?;
    let mut buffer = [0; 64];
    let (_, from) = recvfrom::<UnixAddr>(b.as_raw_fd(), &mut buffer)?;
    ensure_eq!(from, Some(names[0]), "sender of what waited");
    unix::talk(&a, &b)?;
    unix::hear(&c, b"early")?;
    unix::say(&client, b"late")?;
    unix::hear(&c, b"late")?;
    unix::say(&d, b"reconnected")?;
    unix::hear(&c, b"reconnected")?;
    ensure_eq!(nix::unistd::write(&e, b"x"), Err(Errno::EPERM), "sending to one who left us");
    ensure_eq!(nix::unistd::write(&lonely, b"x"), Err(Errno::ECONNREFUSED), "sending to one who is gone");
    Ok(())
}
