//! Socket options, addresses as bytes, and messages with what travels along.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;

/// Reads an option into a buffer; how many bytes it has.
pub fn get_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Result<usize, SysError> {
    let mut len = value.len() as libc::socklen_t;
    let pointer = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `len` bytes to the buffer.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &raw mut len) };
    Errno::result(got).map_err(SysError::of("getsockopt"))?;
    Ok(len as usize)
}

/// Reads an option that is a number.
pub fn get_number(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, SysError> {
    let mut value = [0; 4];
    get_option(fd, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// Sets an option.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), SysError> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads the value.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("setsockopt"))
}

/// Sets an option that is a number.
pub fn set_number(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), SysError> {
    set_option(fd, level, name, &value.to_ne_bytes())
}

/// Which address of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its own.
    Own,
    /// That of its peer.
    Peer,
}

/// A socket's address as the kernel lays it out.
pub fn address(fd: BorrowedFd<'_>, end: End) -> Result<Vec<u8>, SysError> {
    let mut storage = [0_u8; size_of::<libc::sockaddr_storage>()];
    let mut len = storage.len() as libc::socklen_t;
    let pointer = storage.as_mut_ptr().cast();
    let got = match end {
        // SAFETY: the kernel writes at most `len` bytes.
        End::Own => unsafe { libc::getsockname(fd.as_raw_fd(), pointer, &raw mut len) },
        // SAFETY: as above.
        End::Peer => unsafe { libc::getpeername(fd.as_raw_fd(), pointer, &raw mut len) },
    };
    let call = if end == End::Own { "getsockname" } else { "getpeername" };
    Errno::result(got).map_err(SysError::of(call))?;
    Ok(storage.get(..len as usize).unwrap_or(&storage).to_vec())
}

/// Creates a socket.
pub fn create(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    let fd = Errno::result(fd).map_err(SysError::of("socket"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates two connected unix sockets.
pub fn pair(kind: i32) -> Result<(OwnedFd, OwnedFd), SysError> {
    let mut fds = [-1; 2];
    // SAFETY: the kernel writes two numbers.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) };
    Errno::result(made).map_err(SysError::of("socketpair"))?;
    let [a, b] = fds;
    // SAFETY: the kernel just made it for us.
    let a = unsafe { OwnedFd::from_raw_fd(a) };
    // SAFETY: as above.
    let b = unsafe { OwnedFd::from_raw_fd(b) };
    Ok((a, b))
}

/// Binds a socket to an address, as the kernel lays it out.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), SysError> {
    let len = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads the address.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), len) };
    Errno::result(bound).map(|_| ()).map_err(SysError::of("bind"))
}

/// Connects a socket to an address, as the kernel lays it out.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), SysError> {
    let len = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads the address.
    let done = unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), len) };
    Errno::result(done).map(|_| ()).map_err(SysError::of("connect"))
}

/// Lets a socket listen.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<(), SysError> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::listen(fd.as_raw_fd(), backlog) };
    Errno::result(done).map(|_| ()).map_err(SysError::of("listen"))
}

/// `SIOCGSKNS` of `include/uapi/linux/sockios.h`, since Linux 4.9.
const SIOCGSKNS: libc::c_ulong = 0x894c;

/// The network namespace that a socket is of.
pub fn network_namespace(fd: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    // SAFETY: takes no argument.
    let fd = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCGSKNS, 0) };
    let fd = Errno::result(fd).map_err(SysError::of("ioctl(SIOCGSKNS)"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes that wait to be read.
pub fn queued(fd: BorrowedFd<'_>) -> Result<i32, SysError> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one number.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Errno::result(done).map_err(SysError::of("ioctl(FIONREAD)"))?;
    Ok(bytes)
}

/// Accepts a connection.
pub fn accept(fd: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for, so the kernel writes nothing.
    let fd = unsafe { libc::accept4(fd.as_raw_fd(), none, std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    let fd = Errno::result(fd).map_err(SysError::of("accept4"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// From `include/uapi/linux/un.h`.
const SIOCUNIXFILE: libc::c_ulong = 0x89e0;

/// The file that a unix socket is bound to, as opened with `O_PATH`.
pub fn unix_file(fd: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    // SAFETY: takes no argument.
    let fd = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCUNIXFILE, 0) };
    let fd = Errno::result(fd).map_err(SysError::of("ioctl(SIOCUNIXFILE)"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes that were sent and not yet taken.
pub fn unsent(fd: BorrowedFd<'_>) -> Result<i32, SysError> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one number.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(done).map_err(SysError::of("ioctl(SIOCOUTQ)"))?;
    Ok(bytes)
}

/// Process, user and group of a sender or a peer (`struct ucred`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Process; 0 if there is none.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Credentials {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u32::from_ne_bytes(*b));
        Some(Self { pid: word(0)?, uid: word(4)?, gid: word(8)? })
    }

    fn bytes(self) -> Vec<u8> {
        [self.pid, self.uid, self.gid].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// What `SO_PEERCRED` says.
pub fn peer_credentials(fd: BorrowedFd<'_>) -> Result<Credentials, SysError> {
    let mut value = [0; 12];
    get_option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut value)?;
    Credentials::parse(&value).ok_or(SysError { call: "getsockopt(SO_PEERCRED)", errno: Errno::EBADMSG })
}

/// What one receive gave, besides the bytes.
#[derive(Debug)]
pub struct Received {
    /// How many bytes are in the buffer.
    pub len: usize,
    /// `MSG_TRUNC` and the like.
    pub flags: i32,
    /// Descriptors that came along.
    pub rights: Vec<OwnedFd>,
    /// Credentials that came along.
    pub credentials: Option<Credentials>,
    /// Address of the sender, in the kernel's layout; empty if it has none.
    pub source: Vec<u8>,
}

/// From `include/linux/socket.h`: a descriptor of the sending process.
const SCM_PIDFD: i32 = 4;
/// Room for control messages: descriptors (`SCM_MAX_FD` is 253), credentials, and whatever options add.
const CONTROL: usize = 2048;
/// `struct cmsghdr` is a length of 8 bytes, level and type.
const CONTROL_HEADER: usize = 16;

/// Receives one message (recvmsg(2)).
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: i32) -> Result<Received, SysError> {
    let mut control = [0_u64; CONTROL / 8];
    let mut source = [0_u8; size_of::<libc::sockaddr_storage>()];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = source.as_mut_ptr().cast();
    header.msg_namelen = source.len() as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    // SAFETY: every pointer in the header leads to a live buffer of the length next to it.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) };
    let len = Errno::result(len).map_err(SysError::of("recvmsg"))? as usize;
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut received = Received {
        len,
        flags: header.msg_flags,
        rights: Vec::new(),
        credentials: None,
        source: source.get(..header.msg_namelen as usize).unwrap_or_default().to_vec(),
    };
    let mut rest = bytes.get(..header.msg_controllen).unwrap_or_default();
    while let Some(length) = rest.first_chunk().map(|b| usize::from_ne_bytes(*b)) {
        let word =
            |at: usize| rest.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| i32::from_ne_bytes(*b));
        let data = rest.get(CONTROL_HEADER..length).unwrap_or_default();
        match (word(8), word(12)) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS | SCM_PIDFD) => {
                let numbers = data.as_chunks().0.iter().map(|b| i32::from_ne_bytes(*b));
                // SAFETY: the kernel just made these descriptors for us.
                received.rights.extend(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                if word(12) == SCM_PIDFD {
                    received.rights.pop();
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => received.credentials = Credentials::parse(data),
            _ => {}
        }
        rest = rest.get(length.max(CONTROL_HEADER).next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(received)
}

/// What is sent along with bytes.
#[derive(Debug, Default)]
pub struct Along<'a> {
    /// Address to send to, in the kernel's layout; empty: to the peer.
    pub to: &'a [u8],
    /// Descriptors.
    pub rights: &'a [BorrowedFd<'a>],
    /// Credentials.
    pub credentials: Option<Credentials>,
}

/// Sends one message (sendmsg(2)).
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], along: &Along<'_>, flags: i32) -> Result<usize, SysError> {
    let mut control = Vec::new();
    let mut add = |kind: i32, data: Vec<u8>| {
        control.extend((CONTROL_HEADER + data.len()).to_ne_bytes());
        control.extend(libc::SOL_SOCKET.to_ne_bytes());
        control.extend(kind.to_ne_bytes());
        control.extend(data);
        control.resize(control.len().next_multiple_of(8), 0);
    };
    if !along.rights.is_empty() {
        let numbers = along.rights.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()).collect();
        add(libc::SCM_RIGHTS, numbers);
    }
    if let Some(credentials) = along.credentials {
        add(libc::SCM_CREDENTIALS, credentials.bytes());
    }
    let control: Vec<u64> =
        control.as_chunks::<8>().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect();
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if !along.to.is_empty() {
        header.msg_name = along.to.as_ptr().cast_mut().cast();
        header.msg_namelen = along.to.len() as libc::socklen_t;
    }
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len() * 8;
    }
    // SAFETY: every pointer in the header leads to a live buffer of the length next to it; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags | libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(|sent| sent as usize).map_err(SysError::of("sendmsg"))
}

/// The classic filter of a socket; empty if it has none.
pub fn filter(fd: BorrowedFd<'_>) -> Result<Vec<libc::sock_filter>, SysError> {
    // The option's length counts instructions, not bytes.
    let mut count: libc::socklen_t = 0;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_GET_FILTER);
    // SAFETY: with no room for any instruction, the kernel writes none.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::null_mut(), &raw mut count) };
    Errno::result(got).map_err(SysError::of("getsockopt(SO_GET_FILTER)"))?;
    let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; count as usize];
    if program.is_empty() {
        return Ok(program);
    }
    let pointer = program.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `count` instructions.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &raw mut count) };
    Errno::result(got).map_err(SysError::of("getsockopt(SO_GET_FILTER)"))?;
    program.truncate(count as usize);
    Ok(program)
}

/// Attaches a classic filter.
pub fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> Result<(), SysError> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_ptr().cast_mut(),
    };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads the struct and the instructions that it points to.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const filter).cast(), len) };
    Errno::result(set).map(|_| ()).map_err(SysError::of("setsockopt(SO_ATTACH_FILTER)"))
}
/// From `include/uapi/linux/sockios.h`.
const SIOCOUTQNSD: libc::c_ulong = 0x894b;

/// Bytes of a TCP socket that were written and never sent.
pub fn never_sent(fd: BorrowedFd<'_>) -> Result<i32, SysError> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one number.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
    Errno::result(done).map_err(SysError::of("ioctl(SIOCOUTQNSD)"))?;
    Ok(bytes)
}
