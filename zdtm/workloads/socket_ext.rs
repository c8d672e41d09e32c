//! Unix sockets that talk to a process outside of the tree are connected to its names again.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

/// How long the other process stays if nobody tells it to end.
const LONGEST: Duration = Duration::from_mins(1);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // Its parent ends, so that the runner gets it: it is no longer in the tree.
    let middle = cx.child(|cx| {
        cx.child(serve)?;
        Ok(())
    })?;
    middle.join()?;
    cx.wait_for("outside-ready")?;
    let datagrams = UnixDatagram::bind(cx.path("own"))?;
    datagrams.connect(cx.path("datagrams"))?;
    let mut stream = UnixStream::connect(cx.path("stream"))?;
    talk(&datagrams, &mut stream)?;
    cx.barrier()?;
    let answers = talk(&datagrams, &mut stream);
    cx.post("end")?;
    answers
}

/// Both sockets get an answer.
fn talk(datagrams: &UnixDatagram, stream: &mut UnixStream) -> Verdict {
    let mut bytes = [0; 4];
    datagrams.send(b"ping")?;
    datagrams.recv(&mut bytes)?;
    ensure_eq!(bytes, *b"pong", "the answer to a datagram");
    stream.write_all(b"PING")?;
    stream.read_exact(&mut bytes)?;
    ensure_eq!(bytes, *b"PONG", "the answer through the stream");
    Ok(())
}

/// Answers to whoever connects, until it is told to end.
fn serve(cx: &mut Context) -> Verdict {
    // In the group of the tree's root it would keep that number from being used again.
    nix::unistd::setsid()?;
    let datagrams = UnixDatagram::bind(cx.path("datagrams"))?;
    let listener = UnixListener::bind(cx.path("stream"))?;
    datagrams.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    cx.post("outside-ready")?;
    let mut streams: Vec<UnixStream> = Vec::new();
    let started = Instant::now();
    let mut bytes = [0; 4];
    while !cx.posted("end") && started.elapsed() < LONGEST {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        if datagrams.recv(&mut bytes).is_ok() {
            datagrams.send_to(b"pong", cx.path("own"))?;
        }
        for stream in &mut streams {
            match stream.read(&mut bytes) {
                Ok(4) => stream.write_all(b"PONG")?,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    exit_now(0)
}
