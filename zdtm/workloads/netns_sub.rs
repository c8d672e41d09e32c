//! Tasks and sockets in several network namespaces: of a child, and of a socket alone.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::commands::ip;

/// `SIOCGSKNS` of `include/uapi/linux/sockios.h`.
const SIOCGSKNS: u64 = 0x894c;

fn own() -> Result<File, Failure> {
    Ok(File::open("/proc/self/ns/net")?)
}

fn ino(file: &File) -> Result<u64, Failure> {
    Ok(file.metadata()?.ino())
}

/// The namespace of a socket.
fn of_socket(socket: &UdpSocket) -> Result<u64, Failure> {
    // SAFETY: takes no argument.
    let fd = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS, 0) })?;
    // SAFETY: the kernel just made it for us.
    ino(&File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Sockets with names that are taken once in each namespace.
struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    unix: UnixListener,
    name: SocketAddr,
}

impl Sockets {
    fn open() -> Result<Self, Failure> {
        let udp = UdpSocket::bind("127.0.0.1:7000")?;
        udp.set_read_timeout(Some(Duration::from_secs(10)))?;
        let name = SocketAddr::from_abstract_name("zoo")?;
        let unix = UnixListener::bind_addr(&name)?;
        Ok(Self { udp, tcp: TcpListener::bind("127.0.0.1:7001")?, unix, name })
    }

    fn talk(&self) -> Verdict {
        let mut heard = [0; 4];
        self.udp.send_to(b"self", "127.0.0.1:7000")?;
        self.udp.recv(&mut heard)?;
        ensure_eq!(&heard, b"self", "a datagram");
        let client = TcpStream::connect("127.0.0.1:7001")?;
        (&client).write_all(b"over")?;
        self.tcp.accept()?.0.read_exact(&mut heard)?;
        ensure_eq!(&heard, b"over", "a stream");
        let client = UnixStream::connect_addr(&self.name)?;
        (&client).write_all(b"unix")?;
        self.unix.accept()?.0.read_exact(&mut heard)?;
        ensure_eq!(&heard, b"unix", "a unix socket");
        Ok(())
    }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let home = own()?;
    let child = cx.child(|cx| {
        let home = own()?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        ip("link set lo up")?;
        let sockets = Sockets::open()?;
        ensure!(UdpSocket::bind("127.0.0.1:7000").is_err(), "a name is free that is taken");
        cx.post("child")?;
        cx.park()?;
        ensure!(ino(&own()?)? != ino(&home)?, "the child is in its parent's network namespace");
        ensure_eq!(of_socket(&sockets.udp)?, ino(&own()?)?, "the namespace of the child's socket");
        sockets.talk()?;
        cx.wait_for("looked")
    })?;
    cx.wait_for("child")?;
    let sockets = Sockets::open()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let alone = UdpSocket::bind("0.0.0.0:7000")?;
    setns(&home, CloneFlags::CLONE_NEWNET)?;
    let childs = File::open(format!("/proc/{}/ns/net", child.pid))?;
    cx.barrier()?;
    ensure_eq!(ino(&own()?)?, ino(&home)?, "where we are");
    ensure_eq!(
        ino(&File::open(format!("/proc/{}/ns/net", child.pid))?)?,
        ino(&childs)?,
        "where the child is"
    );
    let of_alone = of_socket(&alone)?;
    ensure!(of_alone != ino(&home)? && of_alone != ino(&childs)?, "a socket is not alone in its namespace");
    ensure_eq!(alone.local_addr()?.port(), 7000, "its port");
    sockets.talk()?;
    cx.post("looked")?;
    child.join()
}
