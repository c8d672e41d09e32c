//! Hidden names: a listener, an accepted connection, and a bound client.

use std::os::fd::AsRawFd as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let (address, own) = (unix::hidden("server")?, unix::hidden("client")?);
    let listener = unix::listening(kind, &address)?;
    let client = unix::bound(kind, &own)?;
    nix::sys::socket::connect(client.as_raw_fd(), &address)?;
    let servers = [unix::accepted(&listener)?];
    let second = unix::connected(kind, &address)?;
    let accepted = unix::accepted(&listener)?;
    cx.barrier()?;
    unix::talk(&client, &servers[0])?;
    unix::talk(&second, &accepted)?;
    ensure_eq!((unix::name(&client)?, unix::peer_name(&servers[0])?), (own, own), "names of the client");
    ensure_eq!(
        (unix::name(&accepted)?, unix::peer_name(&second)?),
        (address, address),
        "names of the server"
    );
    let next = unix::connected(kind, &address)?;
    unix::talk(&next, &unix::accepted(&listener)?)
}
