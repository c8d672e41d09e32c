//! Datagrams wait in UDP sockets, with their bounds and senders.

use std::net::UdpSocket;
use std::time::Duration;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut sockets = Vec::new();
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let receiver = UdpSocket::bind(host)?;
        let sender = UdpSocket::bind(host)?;
        for words in ["one", "second", "the third"] {
            sender.send_to(words.as_bytes(), receiver.local_addr()?)?;
        }
        sockets.push((receiver, sender.local_addr()?));
    }
    cx.barrier()?;
    for (receiver, from) in &sockets {
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        for words in ["one", "second", "the third"] {
            let mut buffer = [0; 64];
            let (length, sender) = receiver.recv_from(&mut buffer)?;
            ensure_eq!((&buffer[..length], sender), (words.as_bytes(), *from), "datagram and sender");
        }
    }
    Ok(())
}
