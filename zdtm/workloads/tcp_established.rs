//! A TCP connection inside the tree still carries data both ways.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"before")?;
    cx.barrier()?;
    let mut bytes = [0; 6];
    server.read_exact(&mut bytes)?;
    ensure_eq!(bytes, *b"before", "data that was on its way");
    server.write_all(b"after!")?;
    client.read_exact(&mut bytes)?;
    ensure_eq!(bytes, *b"after!", "data sent after");
    Ok(())
}
