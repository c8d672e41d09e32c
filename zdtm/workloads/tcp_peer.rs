//! What is outside of a target that has TCP connections, and how the two find each other: a pair of network devices if the
//! entry has one, else the loopback address.
//!
//! The argument says what it does: `silent` does not answer whoever connects before the barrier, `asking` connects and is not
//! accepted, `talking` is connected, and sends and reads on while nobody is there to answer.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{Backlog, listen};
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

use crate::commands::ip;
use crate::{socket_tcp, tcp};

/// The runner's bridge (`outer` of the entry).
const BRIDGE: &str = "192.0.2.254:0";
/// What the entry calls the device in the target, and its address.
const INSIDE: (&str, &str) = ("zdtm2", "192.0.2.1");
/// How long somebody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Leaves an address, complete at once.
fn tell(cx: &Context, name: &str, address: SocketAddrV4) -> Verdict {
    let unfinished = cx.path(&format!("{name}.unfinished"));
    fs::write(&unfinished, address.to_string())?;
    Ok(fs::rename(unfinished, cx.path(name))?)
}

fn told(cx: &Context, name: &str) -> Result<SocketAddrV4, Failure> {
    cx.wait_for(name)?;
    Ok(fs::read_to_string(cx.path(name))?.parse()?)
}

fn listen_at(host: &str) -> Result<(TcpListener, SocketAddrV4), Failure> {
    match tcp::listen(host)? {
        (listener, SocketAddr::V4(address)) => Ok((listener, address)),
        (_, other) => Err(Failure::new(format!("{other} is none of version 4"))),
    }
}

/// In the target: where the peer is; there is a way to it.
pub(crate) fn find(cx: &Context) -> Result<SocketAddrV4, Failure> {
    let peer = told(cx, "peer")?;
    if !peer.ip().is_loopback() {
        let (device, address) = INSIDE;
        let limit = Instant::now() + PATIENCE;
        while ip(&format!("link show {device}")).is_err() {
            ensure!(Instant::now() < limit, "there is no device {device}");
            std::thread::sleep(Duration::from_millis(20));
        }
        ip(&format!("addr add {address}/24 dev {device}"))?;
        ip(&format!("link set {device} up"))?;
    }
    Ok(peer)
}

/// In the target: a listener that the peer can reach, and knows.
pub(crate) fn listen_to(cx: &Context, peer: SocketAddrV4) -> Result<(TcpListener, SocketAddrV4), Failure> {
    let own: Ipv4Addr = if peer.ip().is_loopback() { *peer.ip() } else { INSIDE.1.parse()? };
    let (listener, address) = listen_at(&SocketAddrV4::new(own, 0).to_string())?;
    tell(cx, "listener", address)?;
    Ok((listener, address))
}

/// A full backlog: whoever asks next is not answered until the barrier.
fn silent(cx: &Context, listener: &TcpListener, address: SocketAddrV4) -> Verdict {
    listen(listener, Backlog::new(0)?)?;
    let first = TcpStream::connect(address)?;
    tell(cx, "peer", address)?;
    cx.park()?;
    let (server, _) = listener.accept()?;
    tcp::talk(&server, &first)?;
    let (server, _) = listener.accept()?;
    server.set_read_timeout(Some(PATIENCE))?;
    tcp::say(&server, b"welcome")?;
    tcp::hear_end(&server)
}

fn asking(cx: &Context) -> Verdict {
    let stream = TcpStream::connect(told(cx, "listener")?)?;
    cx.post("connected")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ensure!((&stream).read(&mut [0; 1]).unwrap_or(0) == 0, "nobody wrote anything");
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // The bridge is there before anybody is started.
    let (listener, address) = listen_at(BRIDGE).or_else(|_| listen_at("127.0.0.1:0"))?;
    match cx.args().first().map(String::as_str) {
        Some("silent") => silent(cx, &listener, address),
        Some("asking") => {
            tell(cx, "peer", address)?;
            asking(cx)
        }
        Some("talking") => {
            tell(cx, "peer", address)?;
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            socket_tcp::talk(&stream, [1, 2], socket_tcp::SOME, Vec::new(), 0)
        }
        other => Err(Failure::new(format!("{other:?} is no peer"))),
    }
}
