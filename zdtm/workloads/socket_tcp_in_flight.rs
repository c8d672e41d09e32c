//! Connections that nobody has accepted are left out, and the listener goes on.

use std::net::TcpStream;
use std::time::Duration;

use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

use crate::tcp;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (listener, address) = tcp::listen(tcp::host(cx))?;
    let mut listener = Some(listener);
    tcp::outsider(cx, |cx| {
        drop(listener.take());
        let stream = TcpStream::connect(address)?;
        cx.post("connected")?;
        stream.set_read_timeout(Some(Duration::from_secs(25)))?;
        ensure!(std::io::Read::read(&mut &stream, &mut [0; 1]).unwrap_or(0) == 0, "nobody wrote anything");
        Ok(())
    })?;
    cx.wait_for("connected")?;
    cx.barrier()?;
    let listener = listener.ok_or_else(|| Failure::new("no listener"))?;
    listener.set_nonblocking(true)?;
    // It was left out, or the original runs on and still has it.
    drop(listener.accept());
    listener.set_nonblocking(false)?;
    let next = TcpStream::connect(address)?;
    tcp::talk(&next, &listener.accept()?.0)?;
    cx.wait_for("outsider")
}
