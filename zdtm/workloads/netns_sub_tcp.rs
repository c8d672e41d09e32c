//! TCP connections in the network namespace of a child, and over a pair of devices between it and that of its parent; data waits.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

use crate::commands::ip;
use crate::tcp;

/// Connects when the devices lead there.
fn connect(to: &str) -> Result<TcpStream, Failure> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(to) {
            Ok(stream) => return Ok(stream),
            Err(e) => ensure!(Instant::now() < limit, "{to}: {e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ip("link set lo up")?;
        cx.post("unshared")?;
        cx.wait_for("paired")?;
        ip("addr add 192.0.2.2/24 dev in")?;
        ip("link set in up")?;
        let listener = TcpListener::bind("192.0.2.2:7000")?;
        cx.post("listens")?;
        let outer = listener.accept()?.0;
        let (client, server) = tcp::connect("127.0.0.1:0")?;
        tcp::say(&client, b"to the server")?;
        tcp::say(&outer, b"to the parent")?;
        cx.post("child")?;
        cx.park()?;
        tcp::hear(&server, b"to the server")?;
        tcp::talk(&client, &server)?;
        tcp::hear(&outer, b"to the child")?;
        tcp::say(&outer, b"goodbye")?;
        cx.wait_for("looked")
    })?;
    cx.wait_for("unshared")?;
    ip(&format!("link add out type veth peer name in netns {}", child.pid))?;
    ip("addr add 192.0.2.1/24 dev out")?;
    ip("link set out up")?;
    cx.post("paired")?;
    cx.wait_for("listens")?;
    let stream = connect("192.0.2.2:7000")?;
    tcp::say(&stream, b"to the child")?;
    cx.wait_for("child")?;
    cx.barrier()?;
    tcp::hear(&stream, b"to the parent")?;
    tcp::hear(&stream, b"goodbye")?;
    cx.post("looked")?;
    child.join()
}
