//! Connections on the way to their end: what our side has written, and its end behind it, waits because the peer does not read.
//!
//! The argument says what the peer has done meanwhile: nothing (FIN_WAIT1), closed its direction before us (LAST_ACK) or after
//! us (CLOSING).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::{raw_socket as raw, tcp};

const MOST: usize = 8 << 20;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (client, server) = tcp::connect(tcp::host(cx))?;
    let how = cx.args().get(1).cloned().unwrap_or_default();
    tcp::say(&server, b"the peer's last words")?;
    if how == "last-ack" {
        server.shutdown(Shutdown::Write)?;
        wait_for(&client, 8)?;
    }
    let sent = fill(&client)?;
    client.shutdown(Shutdown::Write)?;
    if how == "closing" {
        server.shutdown(Shutdown::Write)?;
    }
    let state = match how.as_str() {
        "last-ack" => 9,
        "closing" => 11,
        _ => 4,
    };
    wait_for(&client, state)?;
    cx.barrier()?;
    ensure_eq!(state_of(&client)?, state, "state (include/net/tcp_states.h)");
    let mut heard = vec![0; sent];
    (&server).read_exact(&mut heard)?;
    check_pattern(&heard, 3, "what was sent")?;
    tcp::hear_end(&server)?;
    tcp::hear(&client, b"the peer's last words")?;
    if how != "last-ack" && how != "closing" {
        tcp::say(&server, b"and more")?;
        tcp::hear(&client, b"and more")?;
        server.shutdown(Shutdown::Write)?;
    }
    tcp::hear_end(&client)
}

/// Writes until nothing more fits.
fn fill(mut stream: &TcpStream) -> Result<usize, Failure> {
    let bytes = pattern(3, MOST);
    stream.set_nonblocking(true)?;
    let mut sent = 0;
    while sent < MOST
        && let Ok(count) = stream.write(&bytes[sent..])
    {
        sent += count;
    }
    stream.set_nonblocking(false)?;
    ensure!(sent < MOST, "the peer takes {MOST} bytes without reading");
    Ok(sent)
}

/// The first byte of `struct tcp_info`.
fn state_of(stream: &TcpStream) -> Result<u8, Failure> {
    Ok(raw::get(stream.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, 1)?[0])
}

fn wait_for(stream: &TcpStream, state: u8) -> Verdict {
    let end = Instant::now() + Duration::from_secs(5);
    while state_of(stream)? != state {
        ensure!(Instant::now() < end, "state {} instead of {state}", state_of(stream)?);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
