//! Sockets bound to an address that no interface has, whether they still may be or only might once.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::raw_socket as raw;

const FREEBIND: (i32, i32) = (libc::IPPROTO_IP, libc::IP_FREEBIND);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let stays = cx.args().first().is_none_or(|word| word != "not");
    let mut fds: Vec<OwnedFd> = Vec::new();
    for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM] {
        let fd = raw::make(libc::AF_INET, kind, 0)?;
        raw::set(fd.as_fd(), FREEBIND.0, FREEBIND.1, &1_i32.to_ne_bytes())?;
        // 192.0.2.77 is for documentation.
        let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        address.extend([0, 0, 192, 0, 2, 77]);
        address.resize(16, 0);
        raw::bind(fd.as_fd(), &address)?;
        raw::set(fd.as_fd(), FREEBIND.0, FREEBIND.1, &i32::from(stays).to_ne_bytes())?;
        fds.push(fd);
    }
    let names = addresses(&fds)?;
    cx.barrier()?;
    ensure_eq!(addresses(&fds)?, names, "addresses");
    for fd in &fds {
        let value = raw::get(fd.as_fd(), FREEBIND.0, FREEBIND.1, 4)?;
        ensure_eq!(value.first(), Some(&u8::from(stays)), "IP_FREEBIND");
    }
    Ok(())
}

fn addresses(fds: &[OwnedFd]) -> Result<[SocketAddr; 2], zdtm::workload::Failure> {
    let [datagram, stream] = fds else { return Err(zdtm::workload::Failure::new("two sockets")) };
    let datagram = UdpSocket::from(datagram.try_clone()?);
    let stream = TcpListener::from(stream.try_clone()?);
    Ok([datagram.local_addr()?, stream.local_addr()?])
}
