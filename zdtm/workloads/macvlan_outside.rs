//! A macvlan whose lower device is outside of the network namespace: it leads to the outside before and after.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::commands::ip;

/// The runner's bridge (`outer` of the entry), the device and its address here, and that of another macvlan outside.
const LOWER: &str = "zdtm1";
const DEVICE: &str = "high";
const HERE: &str = "198.51.100.1";
const THERE: &str = "198.51.100.2";

/// Outside: has another one on the same bridge, where nobody listens.
pub(crate) fn peer(cx: &mut Context) -> Verdict {
    ip(&format!("link add there link {LOWER} type macvlan mode bridge"))?;
    ip(&format!("addr add {THERE}/24 dev there"))?;
    ip("link set there up")?;
    // The other one is to be there as long as the target asks.
    cx.park()?;
    cx.wait_for("answered")
}

/// Somebody who listens to nothing answers so.
fn answers() -> Verdict {
    let refuses = || {
        let socket = UdpSocket::bind((HERE, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.connect((THERE, 7))?;
        socket.send(b"anybody?")?;
        socket.recv(&mut [0; 8])
    };
    let limit = Instant::now() + Duration::from_secs(10);
    while !refuses().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
        ensure!(Instant::now() < limit, "nobody answers");
    }
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let limit = Instant::now() + Duration::from_secs(10);
    while ip(&format!("link show {DEVICE}")).is_err() {
        ensure!(Instant::now() < limit, "there is no device");
        std::thread::sleep(Duration::from_millis(20));
    }
    ip(&format!("addr add {HERE}/24 dev {DEVICE}"))?;
    ip(&format!("link set {DEVICE} up"))?;
    answers()?;
    let view = || Ok::<_, Failure>((ip("-o -4 addr show dev high")?, ip("-o link show high")?));
    let before = view()?;
    cx.barrier()?;
    let after = view()?;
    ensure_eq!(after.0, before.0, "addresses");
    let place = |text: &str| text.split_once("@if").map(|(name, _)| name.to_owned());
    ensure_eq!(place(&after.1), place(&before.1), "device");
    answers()?;
    cx.post("answered")
}
