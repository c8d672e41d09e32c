//! A socket that may send to everybody may do so again, and everybody hears it.

use std::net::UdpSocket;
use std::time::Duration;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let hears = UdpSocket::bind("0.0.0.0:0")?;
    let speaks = UdpSocket::bind("127.0.0.1:0")?;
    speaks.set_broadcast(true)?;
    cx.barrier()?;
    hears.set_read_timeout(Some(Duration::from_secs(5)))?;
    speaks.send_to(b"to all", ("127.255.255.255", hears.local_addr()?.port()))?;
    let mut heard = [0; 16];
    let (len, from) = hears.recv_from(&mut heard)?;
    ensure_eq!((&heard[..len], from), (&b"to all"[..], speaks.local_addr()?), "what was heard, from whom");
    Ok(())
}
