//! What workloads with unix sockets have in common: making them, and talking over them.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, connect, getpeername, getsockname,
    listen, socket, socketpair,
};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// The type that the entry asks for; streams if it does not say.
pub(crate) fn kind(cx: &Context) -> SockType {
    match cx.args().first().map(String::as_str) {
        Some("seqpacket") => SockType::SeqPacket,
        Some("dgram") => SockType::Datagram,
        _ => SockType::Stream,
    }
}

pub(crate) fn new(kind: SockType) -> Result<OwnedFd, Failure> {
    Ok(socket(AddressFamily::Unix, kind, SockFlag::empty(), None)?)
}

pub(crate) fn pair(kind: SockType) -> Result<(OwnedFd, OwnedFd), Failure> {
    Ok(socketpair(AddressFamily::Unix, kind, None, SockFlag::empty())?)
}

pub(crate) fn bound(kind: SockType, address: &UnixAddr) -> Result<OwnedFd, Failure> {
    let socket = new(kind)?;
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

pub(crate) fn listening(kind: SockType, address: &UnixAddr) -> Result<OwnedFd, Failure> {
    let socket = bound(kind, address)?;
    listen(&socket, Backlog::new(8)?)?;
    Ok(socket)
}

pub(crate) fn connected(kind: SockType, address: &UnixAddr) -> Result<OwnedFd, Failure> {
    let socket = new(kind)?;
    connect(socket.as_raw_fd(), address)?;
    Ok(socket)
}

pub(crate) fn accepted(listener: &OwnedFd) -> Result<OwnedFd, Failure> {
    let fd = accept(listener.as_raw_fd())?;
    // SAFETY: the kernel just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn file(path: &Path) -> Result<UnixAddr, Failure> {
    Ok(UnixAddr::new(path)?)
}

/// An abstract name of our own.
pub(crate) fn hidden(what: &str) -> Result<UnixAddr, Failure> {
    Ok(UnixAddr::new_abstract(format!("zdtm-{}-{what}", std::process::id()).as_bytes())?)
}

pub(crate) fn name(socket: &OwnedFd) -> Result<UnixAddr, Failure> {
    Ok(getsockname(socket.as_raw_fd())?)
}

pub(crate) fn peer_name(socket: &OwnedFd) -> Result<UnixAddr, Failure> {
    Ok(getpeername(socket.as_raw_fd())?)
}

/// Sends words.
pub(crate) fn say(socket: &OwnedFd, words: &[u8]) -> Verdict {
    ensure_eq!(nix::unistd::write(socket, words)?, words.len(), "bytes sent");
    Ok(())
}

/// Receives one packet, which must be these words.
pub(crate) fn hear(socket: &OwnedFd, words: &[u8]) -> Verdict {
    let mut buffer = [0; 4096];
    let length = nix::unistd::read(socket, &mut buffer)?;
    ensure_eq!(&buffer[..length], words, "what was heard");
    Ok(())
}

/// Talks both ways.
pub(crate) fn talk(a: &OwnedFd, b: &OwnedFd) -> Verdict {
    say(a, b"over there")?;
    hear(b, b"over there")?;
    say(b, b"and back")?;
    hear(a, b"and back")
}
