//! A connection that both ends have closed, and one that the peer has reset: data is still read, then the end or the error.

use std::io::Read as _;
use std::net::Shutdown;
use std::os::fd::AsFd as _;

use nix::sys::socket::{setsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::tcp;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (client, server) = tcp::connect(tcp::host(cx))?;
    tcp::say(&server, b"the last words")?;
    let reset = cx.args().get(1).is_some_and(|how| how == "reset");
    if reset {
        setsockopt(&server.as_fd(), sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    } else {
        client.shutdown(Shutdown::Write)?;
        tcp::hear_end(&server)?;
    }
    drop(server);
    cx.barrier()?;
    tcp::hear(&client, b"the last words")?;
    if reset {
        let error = (&client).read(&mut [0; 1]).map_err(|e| e.kind());
        ensure_eq!(error, Err(std::io::ErrorKind::ConnectionReset), "the first read");
    }
    tcp::hear_end(&client)
}
