//! A classic filter on a socket goes on dropping what it is to drop; a locked one cannot be taken off.

use std::net::UdpSocket;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use nix::errno::Errno;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::raw_socket as raw;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let locked = cx.args().first().is_some_and(|word| word == "locked");
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // What begins with an x, behind the eight bytes of UDP's header, is dropped.
    let program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 8),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(b'x')),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0xffff),
    ];
    let fprog = libc::sock_fprog { len: 4, filter: program.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let attach = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: the program lives during the call.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), attach.0, attach.1, (&raw const fprog).cast(), size) };
    Errno::result(set)?;
    if locked {
        raw::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, &1_i32.to_ne_bytes())?;
    }
    cx.barrier()?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    for words in ["x: drop this", "keep this"] {
        socket.send_to(words.as_bytes(), socket.local_addr()?)?;
    }
    let mut heard = [0; 64];
    let (len, _) = socket.recv_from(&mut heard)?;
    ensure_eq!(&heard[..len], b"keep this", "the first that was heard");
    let detached = raw::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0_i32.to_ne_bytes());
    ensure!(detached.is_err() == locked, "taking it off: {detached:?}");
    Ok(())
}
