//! Pairs of unix sockets, one end in a child, go on talking both ways, in all their types.

use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, exit_now};

const TYPES: [SockType; 3] = [SockType::Stream, SockType::Datagram, SockType::SeqPacket];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let make = |kind| socketpair(AddressFamily::Unix, kind, None, SockFlag::empty());
    let pairs = TYPES.into_iter().map(make).collect::<Result<Vec<(OwnedFd, OwnedFd)>, _>>()?;
    let (ours, theirs): (Vec<OwnedFd>, Vec<OwnedFd>) = pairs.into_iter().unzip();
    let child = cx.child(|cx| {
        cx.park()?;
        theirs.iter().try_for_each(echo)?;
        exit_now(0)
    })?;
    cx.barrier()?;
    for socket in &ours {
        nix::unistd::write(socket, b"ping")?;
        let mut answer = [0; 8];
        let length = nix::unistd::read(socket, &mut answer)?;
        ensure_eq!(&answer[..length], b"ping", "the echo");
    }
    child.join()?;
    Ok(())
}

fn echo(socket: &OwnedFd) -> Result<(), Failure> {
    let mut bytes = [0; 8];
    let length = nix::unistd::read(socket, &mut bytes)?;
    nix::unistd::write(socket, &bytes[..length])?;
    Ok(())
}
