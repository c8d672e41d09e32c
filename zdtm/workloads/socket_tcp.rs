//! A TCP connection with one end outside of the tree, which reads and writes on while nobody is there to answer.
//!
//! Both ends send more than their queues hold, so that data waits in every queue at the dump.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::conntrack::Rules;
use crate::tcp;

/// Bytes before the dump.
const FIRST: usize = 1000;
/// Bytes that no queue holds.
pub(crate) const SOME: usize = 1 << 20;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let has = |word: &str| cx.args().iter().any(|arg| arg == word);
    let (serves, len) = (has("server"), if has("much") { 24 << 20 } else { SOME });
    let (listener, address) = tcp::listen(tcp::host(cx))?;
    let mut listener = Some(listener);
    tcp::outsider(cx, |cx| {
        let by = cx.args().iter().find_map(|arg| arg.strip_prefix("conntrack-"));
        let _rules = by.map(|by| Rules::new(by, address.port())).transpose()?;
        // Only one end has the listener, or it would live on with the other.
        let stream = match listener.take() {
            Some(listener) if !serves => listener.accept()?.0,
            _ => TcpStream::connect(address)?,
        };
        stream.set_read_timeout(Some(Duration::from_secs(25)))?;
        talk(&stream, [1, 2], len, Vec::new(), 0)
    })?;
    let stream = if serves { accept(listener.as_ref())? } else { TcpStream::connect(address)? };
    if !serves {
        drop(listener.take());
    }
    talk_across(cx, &stream, len)?;
    cx.wait_for("outsider")?;
    if let Some(listener) = listener {
        let next = TcpStream::connect(address)?;
        tcp::talk(&next, &listener.accept()?.0)?;
    }
    Ok(())
}

/// Talks with somebody who sends the first pattern: some of it before the barrier, and the rest of all `len` bytes after it.
pub(crate) fn talk_across(cx: &mut Context, mut stream: &TcpStream, len: usize) -> Verdict {
    let addresses = (stream.local_addr()?, stream.peer_addr()?);
    let mut first = vec![0; FIRST];
    stream.read_exact(&mut first)?;
    stream.write_all(&pattern(2, FIRST))?;
    cx.barrier()?;
    ensure_eq!((stream.local_addr()?, stream.peer_addr()?), addresses, "addresses");
    talk(stream, [2, 1], len, first, FIRST)
}

fn accept(listener: Option<&TcpListener>) -> Result<TcpStream, Failure> {
    let listener = listener.ok_or_else(|| Failure::new("no listener"))?;
    Ok(listener.accept()?.0)
}

/// Writes all of the first pattern from `sent` on, and reads all of the second, of which some was `heard`; then both end.
pub(crate) fn talk(
    stream: &TcpStream,
    seeds: [u64; 2],
    len: usize,
    mut heard: Vec<u8>,
    sent: usize,
) -> Verdict {
    let [mine, yours] = seeds;
    let writer = stream.try_clone()?;
    let writer = std::thread::spawn(move || {
        (&writer).write_all(&pattern(mine, len)[sent..])?;
        writer.shutdown(Shutdown::Write)
    });
    let mut stream = stream;
    stream.read_to_end(&mut heard)?;
    ensure_eq!(heard.len(), len, "bytes that were heard");
    check_pattern(&heard, yours, "what was heard")?;
    let written = writer.join().map_err(|_panic| Failure::new("the writer panicked"))?;
    ensure!(written.is_ok(), "writing: {written:?}");
    Ok(())
}
