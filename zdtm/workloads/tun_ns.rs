//! A TUN device stays attached to its descriptor and goes with it, a TAP device stays by itself, and packets pass.

use std::fs::File;
use std::io::Read as _;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::commands::ip;

/// From `include/uapi/linux/if_tun.h`.
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETPERSIST: u64 = 0x4004_54cb;
const TUNSETOWNER: u64 = 0x4004_54cc;
const TUNGETIFF: u64 = 0x8004_54d2;
const IFF_TUN: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_DETACH_QUEUE: u16 = 0x0400;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUNGETSNDBUF: u64 = 0x8004_54d3;
const TUNSETSNDBUF: u64 = 0x4004_54d4;
const TUNGETVNETHDRSZ: u64 = 0x8004_54d7;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUNSETQUEUE: u64 = 0x4004_54d9;
const OWNER: u64 = 7;

/// `struct ifreq`: a name, and flags behind it.
type Request = [u8; 40];

fn request(name: &str, flags: u16) -> Request {
    let mut request = [0; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    request
}

fn open() -> Result<File, Failure> {
    let mut options = File::options();
    Ok(options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?)
}

fn attach(file: &File, name: &str, flags: u16) -> Verdict {
    let mut request = request(name, flags);
    // SAFETY: the kernel reads and writes `struct ifreq`, which has 40 bytes.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) })?;
    Ok(())
}

fn set(file: &File, what: u64, value: u64) -> Verdict {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), what, value) })?;
    Ok(())
}

fn attached(file: &File) -> Result<Request, Errno> {
    let mut request = request("", 0);
    // SAFETY: the kernel writes `struct ifreq`, which has 40 bytes.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF, request.as_mut_ptr()) })?;
    Ok(request)
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let name = cx.args().first().cloned().unwrap_or_else(|| "tunnel".into());
    let (mut file, unattached) = (open()?, open()?);
    attach(&file, &name, IFF_TUN | IFF_NO_PI)?;
    ip(&format!("addr add 192.0.2.1/24 dev {name}"))?;
    ip(&format!("link set {name} up"))?;
    if name == "tunnel" {
        let lasting = open()?;
        attach(&lasting, "tap", IFF_TAP | IFF_NO_PI)?;
        set(&lasting, TUNSETOWNER, OWNER)?;
        set(&lasting, TUNSETPERSIST, 1)?;
    }
    // What is known of a link to which nobody was ever attached is another thing.
    let link = |args: &str| Ok::<_, Failure>(ip(args)?.replace("state UNKNOWN", "state UP"));
    let view = || {
        Ok::<_, Failure>((
            link(&format!("-o -d link show {name}"))?,
            ip("-o -4 addr show dev lo")?,
            link("-o -d link show type tun")?,
        ))
    };
    // Until the link is there, nothing passes.
    std::thread::sleep(Duration::from_millis(300));
    let (before, request) = (view()?, attached(&file)?);
    cx.barrier()?;
    // A link notices a moment later that somebody is attached.
    let limit = Instant::now() + Duration::from_secs(5);
    while view()? != before && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure_eq!(view()?, before, "devices");
    ensure_eq!(attached(&file)?, request, "what the descriptor is attached to");
    ensure_eq!(attached(&unattached), Err(Errno::EBADFD), "what is attached to nothing");
    if name != "tunnel" {
        return Ok(());
    }
    // Whatever came before, such as what the kernel says to routers.
    let mut packet = [0; 2000];
    while file.read(&mut packet).is_ok() {}
    UdpSocket::bind("192.0.2.1:0")?.send_to(b"through the tunnel", "192.0.2.2:7")?;
    loop {
        match file.read(&mut packet) {
            Ok(length) if packet[..length].ends_with(b"through the tunnel") => break,
            Ok(_) => {}
            Err(e) => ensure!(Instant::now() < limit + Duration::from_secs(5), "no packet came: {e}"),
        }
    }
    drop(file);
    ensure!(!ip("-o link")?.contains("tunnel"), "the device outlives its descriptor");
    attach(&unattached, "tap", IFF_TAP | IFF_NO_PI)
}

/// A number that a device has, or is given.
fn number(file: &File, what: u64, mut value: i32) -> Result<i32, Errno> {
    // SAFETY: the kernel reads or writes one number.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), what, &raw mut value) })?;
    Ok(value)
}

/// Three queues of one device, one of which is out of use; sizes that are not those that it began with.
pub(crate) fn queues(cx: &mut Context) -> Verdict {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    let files = [open()?, open()?, open()?];
    files.iter().try_for_each(|file| attach(file, "many", flags))?;
    let mut detach = request("", IFF_DETACH_QUEUE);
    // SAFETY: the kernel reads `struct ifreq`, which has 40 bytes.
    Errno::result(unsafe { libc::ioctl(files[1].as_raw_fd(), TUNSETQUEUE, detach.as_mut_ptr()) })?;
    number(&files[0], TUNSETSNDBUF, 54_321)?;
    number(&files[0], TUNSETVNETHDRSZ, 12)?;
    let view = || -> Result<_, Failure> {
        let each = files.iter().map(attached).collect::<Result<Vec<_>, _>>()?;
        let sizes = [TUNGETSNDBUF, TUNGETVNETHDRSZ].map(|what| number(&files[2], what, 0));
        Ok((each, sizes, ip("-d -o link show many")?))
    };
    let before = view()?;
    cx.barrier()?;
    ensure_eq!(view()?, before, "queues and sizes");
    drop(files);
    ensure!(!ip("-o link")?.contains("many"), "the device outlives its descriptors");
    Ok(())
}
