//! Packet sockets on the loopback device: ordinary, with rings in mapped memory, and of the obsolete type.

use std::net::UdpSocket;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::socket::{MsgFlags, recv};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::raw_socket as raw;

/// From `include/linux/socket.h`, `include/uapi/linux/if_packet.h`, `if_ether.h`, and `include/linux/net.h`.
const LEVEL: i32 = 263;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const RX_RING: i32 = 5;
const AUXDATA: i32 = 8;
const VERSION: i32 = 10;
const RESERVE: i32 = 12;
const TX_RING: i32 = 13;
const TIMESTAMP: i32 = 17;
const IP: u16 = 0x0800;
const OBSOLETE: i32 = 10;
/// `TP_STATUS_USER`, and where the status is in a frame.
const STATUS_USER: u8 = 1;
const FRAME: usize = 2048;
const BLOCK: u32 = 4096;
const BLOCKS: u32 = 4;
const WORDS: &[u8] = b"a datagram to be overheard";

pub(crate) fn run(cx: &mut Context) -> Verdict {
    match cx.args().first().map(String::as_str) {
        Some("mmap") => rings(cx),
        Some("spkt") => obsolete(cx),
        _ => ordinary(cx),
    }
}

fn ordinary(cx: &mut Context) -> Verdict {
    let fd = bound(libc::SOCK_RAW)?;
    let options = [(AUXDATA, 1), (RESERVE, 64), (TIMESTAMP, 64), (VERSION, 1)];
    for (name, value) in options {
        raw::set(fd.as_fd(), LEVEL, name, &i32::to_ne_bytes(value))?;
    }
    // struct packet_mreq: the loopback device, PACKET_MR_PROMISC.
    let group = [1_u32.to_ne_bytes(), [1, 0, 0, 0], [0; 4], [0; 4]].concat();
    raw::set(fd.as_fd(), LEVEL, ADD_MEMBERSHIP, &group)?;
    let name = raw::address(fd.as_fd())?;
    cx.barrier()?;
    ensure_eq!(raw::address(fd.as_fd())?, name, "address");
    for (option, value) in options {
        ensure_eq!(
            raw::get(fd.as_fd(), LEVEL, option, 4)?,
            i32::to_ne_bytes(value),
            format!("option {option}")
        );
    }
    hear(fd.as_fd())?;
    raw::set(fd.as_fd(), LEVEL, DROP_MEMBERSHIP, &group)
}

fn obsolete(cx: &mut Context) -> Verdict {
    let fd = raw::make(libc::AF_PACKET, OBSOLETE, IP.to_be().into())?;
    let mut name = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    name.extend(b"lo");
    name.resize(16, 0);
    raw::bind(fd.as_fd(), &name)?;
    let name = raw::address(fd.as_fd())?;
    cx.barrier()?;
    ensure_eq!(raw::address(fd.as_fd())?, name, "address");
    hear(fd.as_fd())
}

fn rings(cx: &mut Context) -> Verdict {
    let fd = raw::make(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    raw::set(fd.as_fd(), LEVEL, VERSION, &1_i32.to_ne_bytes())?;
    let ring: Vec<u8> = [BLOCK, BLOCKS, FRAME as u32, BLOCK * BLOCKS / FRAME as u32]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    raw::set(fd.as_fd(), LEVEL, RX_RING, &ring)?;
    raw::set(fd.as_fd(), LEVEL, TX_RING, &ring)?;
    let len = 2 * (BLOCK * BLOCKS) as usize;
    let length = NonZeroUsize::new(len).ok_or_else(|| Failure::new("no length"))?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let memory = unsafe { mmap(None, length, prot, MapFlags::MAP_SHARED, &fd, 0) }?;
    raw::bind(fd.as_fd(), &address(1, IP))?;
    cx.barrier()?;
    let end = Instant::now() + Duration::from_secs(5);
    // Others talk on this device, too, and may fill the ring before us.
    loop {
        say()?;
        std::thread::sleep(Duration::from_millis(5));
        if overheard(memory.cast(), len / 2) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "what was said is not in the ring");
    }
}

/// Whether a frame of the ring has the words; all frames are given back.
fn overheard(memory: NonNull<u8>, len: usize) -> bool {
    // SAFETY: the mapping is as long and lives as long as the process.
    let ring = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), len) };
    let mut found = false;
    for frame in ring.chunks_mut(FRAME).filter(|frame| frame[0] & STATUS_USER != 0) {
        found |= has_words(frame);
        frame[0] = 0;
    }
    found
}

fn has_words(bytes: &[u8]) -> bool {
    bytes.windows(WORDS.len()).any(|window| window == WORDS)
}

fn bound(kind: i32) -> Result<OwnedFd, Failure> {
    let fd = raw::make(libc::AF_PACKET, kind, 0)?;
    raw::bind(fd.as_fd(), &address(1, IP))?;
    Ok(fd)
}

/// `struct sockaddr_ll`.
fn address(interface: u32, protocol: u16) -> Vec<u8> {
    let mut bytes = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    bytes.extend(protocol.to_be_bytes());
    bytes.extend(interface.to_ne_bytes());
    bytes.resize(20, 0);
    bytes
}

fn say() -> Verdict {
    let to = UdpSocket::bind("127.0.0.1:0")?;
    to.send_to(WORDS, to.local_addr()?)?;
    Ok(())
}

/// Overhears a datagram, among others perhaps.
fn hear(fd: BorrowedFd<'_>) -> Verdict {
    say()?;
    let patience = [5_u64.to_ne_bytes(), 0_u64.to_ne_bytes()].concat();
    raw::set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
    let mut heard = vec![0; 64 << 10];
    loop {
        let len = recv(fd.as_raw_fd(), &mut heard, MsgFlags::empty())?;
        if has_words(&heard[..len]) {
            return Ok(());
        }
    }
}
