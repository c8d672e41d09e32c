//! Netlink sockets: one that has joined groups and asks the kernel, and two that talk to each other.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv, send};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::raw_socket as raw;

/// From `include/uapi/linux/netlink.h` and `rtnetlink.h`.
const ROUTE: i32 = 0;
const USERSOCK: i32 = 2;
const LEVEL: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const LIST_MEMBERSHIPS: i32 = 9;
const CAP_ACK: i32 = 10;
const RTM_GETLINK: u16 = 18;
const RTM_NEWLINK: u16 = 16;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let route = raw::make(libc::AF_NETLINK, libc::SOCK_DGRAM, ROUTE)?;
    raw::bind(route.as_fd(), &address(0))?;
    for group in [1_i32, 9, 32] {
        raw::set(route.as_fd(), LEVEL, ADD_MEMBERSHIP, &group.to_ne_bytes())?;
    }
    raw::set(route.as_fd(), LEVEL, CAP_ACK, &1_i32.to_ne_bytes())?;
    let port = std::process::id() << 8;
    let receiver = raw::make(libc::AF_NETLINK, libc::SOCK_RAW, USERSOCK)?;
    raw::bind(receiver.as_fd(), &address(port | 1))?;
    let sender = raw::make(libc::AF_NETLINK, libc::SOCK_RAW, USERSOCK)?;
    raw::bind(sender.as_fd(), &address(port | 2))?;
    raw::connect(sender.as_fd(), &address(port | 1))?;
    let names = [raw::address(route.as_fd())?, raw::address(sender.as_fd())?];
    let groups = raw::get(route.as_fd(), LEVEL, LIST_MEMBERSHIPS, 64)?;
    cx.barrier()?;
    ensure_eq!([raw::address(route.as_fd())?, raw::address(sender.as_fd())?], names, "addresses");
    ensure_eq!(raw::get(route.as_fd(), LEVEL, LIST_MEMBERSHIPS, 64)?, groups, "groups");
    ensure_eq!(number(route.as_fd(), LEVEL, CAP_ACK)?, 1, "NETLINK_CAP_ACK");
    ensure_eq!(number(route.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)?, libc::SOCK_DGRAM, "SO_TYPE");
    ask_for_links(route.as_fd())?;
    send(sender.as_raw_fd(), b"over netlink", MsgFlags::empty())?;
    let mut heard = [0; 64];
    let len = recv(receiver.as_raw_fd(), &mut heard, MsgFlags::MSG_DONTWAIT)?;
    ensure_eq!(&heard[..len], b"over netlink", "what the peer heard");
    Ok(())
}

fn number(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, zdtm::workload::Failure> {
    Ok(raw::get(fd, level, name, 4)?.first_chunk().map_or(-1, |bytes| i32::from_ne_bytes(*bytes)))
}

/// `struct sockaddr_nl`.
fn address(port: u32) -> Vec<u8> {
    let mut bytes = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn ask_for_links(fd: BorrowedFd<'_>) -> Verdict {
    let mut message = 32_u32.to_ne_bytes().to_vec();
    message.extend(RTM_GETLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    message.resize(32, 0);
    send(fd.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = vec![0; 64 << 10];
    let len = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    ensure!(len > 32 && answer[4..6] == RTM_NEWLINK.to_ne_bytes(), "the kernel does not list its links");
    Ok(())
}
