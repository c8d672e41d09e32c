//! A corked UDP socket collects what is written to it: what is in it already cannot be saved.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::time::Duration;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::raw_socket as raw;

/// `SOL_UDP` and `UDP_CORK` of `include/uapi/linux/udp.h`.
const CORK: (i32, i32) = (17, 1);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let hears = UdpSocket::bind("127.0.0.1:0")?;
    let speaks = UdpSocket::bind("127.0.0.1:0")?;
    speaks.connect(hears.local_addr()?)?;
    raw::set(speaks.as_fd(), CORK.0, CORK.1, &1_i32.to_ne_bytes())?;
    let has_begun = cx.args().first().is_some_and(|word| word == "begun");
    if has_begun {
        speaks.send(b"one ")?;
    }
    cx.barrier()?;
    if !has_begun {
        speaks.send(b"one ")?;
    }
    speaks.send(b"and two")?;
    raw::set(speaks.as_fd(), CORK.0, CORK.1, &0_i32.to_ne_bytes())?;
    hears.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut heard = [0; 16];
    let len = hears.recv(&mut heard)?;
    ensure_eq!(&heard[..len], b"one and two", "the datagram");
    Ok(())
}
