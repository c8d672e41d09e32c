//! A connection whose queues are full of megabytes, in both directions.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use zdtm::workload::{Context, Failure, Verdict, check_pattern, exit_now, pattern};

use crate::tcp;

const MOST: usize = 8 << 20;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (client, server) = tcp::connect(tcp::host(cx))?;
    let sent = [fill(&client, 1)?, fill(&server, 2)?];
    let child = cx.child(|cx| {
        cx.park()?;
        drain(&server, 1, sent[0])?;
        exit_now(0)
    })?;
    drop(server);
    cx.barrier()?;
    drain(&client, 2, sent[1])?;
    child.join()
}

/// Writes until nothing more fits.
fn fill(mut stream: &TcpStream, seed: u64) -> Result<usize, Failure> {
    let bytes = pattern(seed, MOST);
    stream.set_nonblocking(true)?;
    let mut sent = 0;
    while let Ok(count) = stream.write(&bytes[sent..]) {
        sent += count;
        if sent == bytes.len() {
            break;
        }
    }
    stream.set_nonblocking(false)?;
    Ok(sent)
}

fn drain(mut stream: &TcpStream, seed: u64, len: usize) -> Verdict {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    check_pattern(&bytes, seed, "what was sent")
}
