//! Pairs of devices between the network namespaces of two tasks and that of their parent.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use zdtm::workload::{Child, Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::commands::ip;

/// Waits until the link has the state that it ends in.
fn view() -> Result<String, Failure> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let links = ip("-o link show type veth")?;
        if !links.contains("LOWERLAYERDOWN") && !links.contains("DOWN") || Instant::now() > limit {
            return Ok(links + &ip("-o -4 addr")? + &ip("-4 route show table all")?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// In a namespace of its own: sends back what it hears, before the dump and after the restore.
fn echo(cx: &mut Context, name: &str, device: &str, address: &str) -> Verdict {
    unshare(CloneFlags::CLONE_NEWNET)?;
    cx.post(&format!("{name}-made"))?;
    cx.wait_for("connected")?;
    ip(&format!("addr add {address}/24 dev {device}"))?;
    ip(&format!("link set {device} up"))?;
    let socket = UdpSocket::bind(format!("{address}:7000"))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    cx.post(&format!("{name}-up"))?;
    cx.wait_for("up")?;
    let before = view()?;
    cx.post(&format!("{name}-seen"))?;
    cx.park()?;
    ensure_eq!(view()?, before, name);
    cx.post(&format!("{name}-same"))?;
    let mut bytes = [0; 16];
    while !cx.posted("done") {
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..length], from)?;
        }
    }
    Ok(())
}

fn ask(address: &str) -> Verdict {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let limit = Instant::now() + Duration::from_secs(10);
    let mut bytes = [0; 16];
    while Instant::now() < limit {
        socket.send_to(b"hello", (address, 7000))?;
        if socket.recv(&mut bytes).is_ok_and(|length| bytes[..length] == *b"hello") {
            return Ok(());
        }
    }
    Err(Failure::new(format!("{address} does not answer")))
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let near = cx.child(|cx| echo(cx, "near", "in", "192.0.2.2"))?;
    let far = cx.child(|cx| echo(cx, "far", "end", "198.51.100.2"))?;
    cx.wait_for("near-made")?;
    cx.wait_for("far-made")?;
    ip(&format!("link add out type veth peer name in netns {}", near.pid))?;
    // Between the two, and none of them ours.
    ip("link add name mid index 70 type veth peer name end")?;
    ip(&format!("link set mid netns {}", near.pid))?;
    ip(&format!("link set end netns {}", far.pid))?;
    ip("addr add 192.0.2.1/24 dev out")?;
    ip("link set out up")?;
    run_in(&near, "addr add 198.51.100.1/24 dev mid")?;
    run_in(&near, "link set mid up")?;
    cx.post("connected")?;
    for name in ["near-up", "far-up"] {
        cx.wait_for(name)?;
    }
    cx.post("up")?;
    for name in ["near-seen", "far-seen"] {
        cx.wait_for(name)?;
    }
    let before = view()?;
    cx.barrier()?;
    ensure_eq!(view()?, before, "ours");
    for name in ["near-same", "far-same"] {
        cx.wait_for(name)?;
    }
    ask("192.0.2.2")?;
    cx.post("done")?;
    near.join()?;
    far.join()
}

/// Calls ip(8) in the namespace of a child.
fn run_in(child: &Child, args: &str) -> Verdict {
    let net = format!("--net=/proc/{}/ns/net", child.pid);
    let status = Command::new("nsenter").arg(net).arg("ip").args(args.split(' ')).status()?;
    ensure!(status.success(), "ip {args}");
    Ok(())
}
