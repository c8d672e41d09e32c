//! Data goes round through a ring of connections and processes without a fault.

use std::os::unix::net::UnixStream;

use zdtm::workload::{Context, Verdict};

use crate::ring;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (first, mut last) = UnixStream::pair()?;
    let mut relays = Vec::new();
    for _ in 0..ring::PROCESSES {
        let (here, there) = UnixStream::pair()?;
        let from = last;
        relays.push(ring::relay(cx, &from, &here)?);
        last = there;
    }
    ring::drive(cx, first, last, relays)
}
