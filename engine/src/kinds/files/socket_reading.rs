//! What a socket is asked when its descriptor is read: addresses and options. There are some ninety options and each is a
//! call, which take longer than everything else about a socket together: so it is done where descriptors are read side by side.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::{OnceLock, PoisonError, RwLock};

use proto::messages::{IpOptsEntry, SkOptsEntry, StasisSocketOption, TcpOptsEntry};

use super::socket_options::{self, Fresh, Place};
use super::{SocketFacts, inet_options};
use crate::error::{Context as _, Problem, SysError};
use crate::sys::socket::{self, Credentials, End};
use crate::tcp_repair::{self, State};

/// Options of a sort of socket that CRIU's messages lack.
pub(super) fn table(facts: SocketFacts) -> Vec<Place> {
    match (facts.domain, facts.kind) {
        (libc::AF_UNIX, _) => socket_options::MORE.to_vec(),
        (_, libc::SOCK_STREAM) => [socket_options::MORE, inet_options::MORE].concat(),
        _ => [socket_options::MORE, inet_options::MORE, inet_options::NOT_OF_STREAMS].concat(),
    }
}

/// Those that somebody has set, and not the packets that came.
fn chosen(facts: SocketFacts) -> Vec<Place> {
    let mut table = table(facts);
    if facts.domain != libc::AF_UNIX && facts.kind == libc::SOCK_STREAM {
        // Where it decides, at those that listen, it is read besides.
        table.retain(|place| *place != socket_options::INCOMING_CPU);
    }
    table
}

/// What new sockets of each sort have, learned when the first of a sort is met; and where links to duplicates are.
#[derive(Debug, Default)]
pub struct Sorts(RwLock<Fresh>, OnceLock<File>);

impl Sorts {
    /// `/proc/self/fd`, of the process that dumps.
    pub(super) fn links(&self) -> Result<&File, SysError> {
        if let Some(links) = self.1.get() {
            return Ok(links);
        }
        let opened = File::open("/proc/self/fd").map_err(SysError::io("open(/proc/self/fd)"))?;
        Ok(self.1.get_or_init(|| opened))
    }

    fn differing(&self, fd: BorrowedFd<'_>, facts: SocketFacts) -> Vec<StasisSocketOption> {
        let known = || {
            let fresh = self.0.read().unwrap_or_else(PoisonError::into_inner);
            fresh.knows(facts).then(|| fresh.differing(fd, facts))
        };
        known().unwrap_or_else(|| {
            self.0.write().unwrap_or_else(PoisonError::into_inner).learn(facts, &chosen(facts));
            known().unwrap_or_default()
        })
    }
}

/// Options of one socket.
#[derive(Debug, Clone)]
pub struct Options {
    /// Those of CRIU's message.
    pub plain: SkOptsEntry,
    /// Of an internet socket.
    pub ip: Option<IpOptsEntry>,
    /// Of a TCP socket.
    pub tcp: Option<TcpOptsEntry>,
    /// All others that differ from what a new socket has.
    pub more: Vec<StasisSocketOption>,
}

/// What a unix or internet socket answered.
#[derive(Debug)]
pub struct Answers {
    /// Its address, as the kernel lays it out.
    pub own: Result<Vec<u8>, SysError>,
    /// The address of its peer.
    pub peer: Result<Vec<u8>, SysError>,
    /// Who the peer is (`SO_PEERCRED`).
    pub credentials: Result<Credentials, SysError>,
    /// Of a TCP socket: its state, and for one that listens, how many connections wait and how many may.
    pub state: Option<Result<(State, u32, u32), SysError>>,
    filter: Result<Vec<libc::sock_filter>, SysError>,
    options: Result<Options, SysError>,
}

impl Answers {
    /// Asks a socket; none if it is of another family.
    pub(super) fn of(fd: BorrowedFd<'_>, facts: SocketFacts, sorts: &Sorts) -> Option<Self> {
        let is_inet = match facts.domain {
            libc::AF_UNIX => false,
            libc::AF_INET | libc::AF_INET6 => true,
            _ => return None,
        };
        let is_tcp = is_inet && facts.kind == libc::SOCK_STREAM && facts.protocol == libc::IPPROTO_TCP;
        Some(Self {
            own: socket::address(fd, End::Own),
            peer: socket::address(fd, End::Peer),
            credentials: socket::peer_credentials(fd),
            state: is_tcp.then(|| tcp_repair::state(fd)),
            filter: socket::filter(fd),
            options: options(fd, facts, sorts),
        })
    }

    /// Its options, with the filter.
    pub(super) fn options(&self) -> Result<Options, Problem> {
        let step = "read its options";
        let so_filter = socket_options::filter_of(self.filter.as_ref()).while_trying_to(step)?;
        let Options { plain, ip, tcp, more } = self.options.clone().while_trying_to(step)?;
        Ok(Options { plain: SkOptsEntry { so_filter, ..plain }, ip, tcp, more })
    }
}

fn options(fd: BorrowedFd<'_>, facts: SocketFacts, sorts: &Sorts) -> Result<Options, SysError> {
    let is_inet = facts.domain != libc::AF_UNIX;
    let is_tcp = is_inet && facts.kind == libc::SOCK_STREAM;
    Ok(Options {
        plain: socket_options::read_plain(fd, facts.domain)?,
        ip: if is_inet { Some(inet_options::read_ip(fd, facts)?) } else { None },
        tcp: if is_tcp { Some(inet_options::read_tcp(fd)?) } else { None },
        more: sorts.differing(fd, facts),
    })
}
