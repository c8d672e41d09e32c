//! A device whose other end is outside of the namespace: after the restore there is another end, and what it leads to.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::commands::ip;

/// What the entry calls the device.
const DEVICE: &str = "eth0";
/// What is at the other end, if that is a port of a bridge.
const NEIGHBOUR: &str = "192.0.2.254:7";

fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Verdict {
    let limit = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        ensure!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Somebody who listens to nothing answers so.
fn refuses() -> bool {
    let refuses = || {
        let socket = UdpSocket::bind("192.0.2.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(NEIGHBOUR)?;
        socket.send(b"anybody?")?;
        socket.recv(&mut [0; 8])
    };
    refuses().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn leads_outside(has_bridge: bool) -> Verdict {
    until("there is no carrier", || ip("-o link show eth0").is_ok_and(|text| text.contains("LOWER_UP")))?;
    if has_bridge { until("nobody answers", refuses) } else { Ok(()) }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let has_bridge = cx.args().iter().any(|arg| arg == "bridge");
    until("there is no device", || ip(&format!("link show {DEVICE}")).is_ok())?;
    ip(&format!("addr add 192.0.2.1/24 dev {DEVICE}"))?;
    ip(&format!("link set {DEVICE} up mtu 1300"))?;
    leads_outside(has_bridge)?;
    // The number of the other end is one outside, and may change.
    let view = || Ok::<_, Failure>((ip("-o -4 addr")?, ip("-4 route show table all")?, ip("-br link")?));
    let before = view()?;
    cx.barrier()?;
    leads_outside(has_bridge)?;
    let after = view()?;
    ensure_eq!((&after.0, &after.1), (&before.0, &before.1), "addresses and routes");
    let name = |text: &str| {
        text.lines().map(|line| line.split_once("@if").map_or(line, |l| l.0).to_owned()).collect::<Vec<_>>()
    };
    ensure_eq!(name(&after.2), name(&before.2), "devices");
    Ok(())
}
