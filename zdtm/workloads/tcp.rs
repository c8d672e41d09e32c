//! What workloads with TCP have in common: connections of each family, and talking over them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// The address that the entry asks for: IPv4, IPv6, or IPv4 through a socket of IPv6.
pub(crate) fn host(cx: &Context) -> &'static str {
    match cx.args().first().map(String::as_str) {
        Some("6") => "[::1]:0",
        Some("4v6") => "[::ffff:127.0.0.1]:0",
        _ => "127.0.0.1:0",
    }
}

pub(crate) fn listen(host: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind(host)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Client and server.
pub(crate) fn connect(host: &str) -> Result<(TcpStream, TcpStream), Failure> {
    let (listener, address) = listen(host)?;
    let client = TcpStream::connect(address)?;
    Ok((client, listener.accept()?.0))
}

pub(crate) fn say(mut stream: &TcpStream, words: &[u8]) -> Verdict {
    Ok(stream.write_all(words)?)
}

pub(crate) fn hear(mut stream: &TcpStream, words: &[u8]) -> Verdict {
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard)?;
    ensure_eq!(heard, words, "what was heard");
    Ok(())
}

/// The peer has closed its direction.
pub(crate) fn hear_end(mut stream: &TcpStream) -> Verdict {
    ensure_eq!(stream.read(&mut [0; 1])?, 0, "bytes at the end");
    Ok(())
}

pub(crate) fn talk(a: &TcpStream, b: &TcpStream) -> Verdict {
    say(a, b"over there")?;
    hear(b, b"over there")?;
    say(b, b"and back")?;
    hear(a, b"and back")
}

/// Starts a process outside of the tree; it leaves the file `outsider` if all is well in the end.
///
/// Its parent ends, so that the runner gets it, and its session is its own, so that the tree's ids are free.
pub(crate) fn outsider(cx: &Context, body: impl FnOnce(&mut Context) -> Verdict) -> Verdict {
    let middle = cx.child(|cx| {
        cx.child(|cx| {
            nix::unistd::setsid()?;
            body(cx)?;
            cx.post("outsider")
        })?;
        Ok(())
    })?;
    middle.join()
}
