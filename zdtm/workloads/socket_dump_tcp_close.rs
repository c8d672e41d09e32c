//! Connections are to be closed by the dump: the restored ends find that, and listeners go on.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::tcp;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (listener, address) = tcp::listen(tcp::host(cx))?;
    let mut client = TcpStream::connect(address)?;
    let mut server = listener.accept()?.0;
    cx.barrier()?;
    for end in [&mut client, &mut server] {
        // A dump that leaves the tree running leaves its connections, too.
        end.set_read_timeout(Some(Duration::from_millis(200)))?;
        ensure!(!matches!(end.read(&mut [0; 1]), Ok(1..)), "a closed connection gave data");
    }
    let next = TcpStream::connect(address)?;
    tcp::talk(&next, &listener.accept()?.0)
}
