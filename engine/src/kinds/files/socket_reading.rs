//! Reading options of many sockets. There are many options and each is a call, which take longer than everything else about
//! a socket together: so they are read when some hundred sockets are known, side by side.

use std::os::fd::{AsFd as _, OwnedFd};

use proto::messages::{FileEntry, IpOptsEntry, SkOptsEntry, StasisSocketOption, TcpOptsEntry};

use super::socket_options::{self, Fresh, Place};
use super::socket_queue::Sockets;
use super::{FdFacts, FilesDump, SocketFacts, inet_options};
use crate::error::{Object, Problem, SysError};
use crate::side_by_side;

/// So many sockets are read at once; their duplicates are held until then.
const AT_ONCE: usize = 512;

/// A socket whose options are still to be read.
#[derive(Debug)]
struct Unread {
    id: u32,
    fd: OwnedFd,
    facts: SocketFacts,
    object: Object,
}

/// Sockets whose options are still to be read, and what failed so far.
#[derive(Debug, Default)]
struct Reading {
    unread: Vec<Unread>,
    problems: Vec<Problem>,
    fresh: Fresh,
}

/// Options of one socket.
struct Options {
    plain: SkOptsEntry,
    ip: Option<IpOptsEntry>,
    tcp: Option<TcpOptsEntry>,
    more: Vec<StasisSocketOption>,
}

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

/// Has the options of a unix or internet socket read, sooner or later, and put into the entry with this id.
pub(super) fn read_later(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<(), Problem> {
    let Some(facts) = fd.socket.filter(|_| !cx.looks_only) else { return Ok(()) };
    if cx.state::<Reading>().unread.len() >= AT_ONCE {
        read_now(cx);
    }
    let copy = fd.dup()?.try_clone_to_owned().map_err(SysError::io("dup"))?;
    cx.state::<Reading>().unread.push(Unread { id, fd: copy, facts, object: fd.object() });
    Ok(())
}

/// Reads all that is left, and tells what failed.
pub(super) fn finish(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
    read_now(cx);
    problems.append(&mut cx.state::<Reading>().problems);
}

fn read_now(cx: &mut FilesDump<'_>) {
    let Reading { unread, fresh, .. } = cx.state::<Reading>();
    let unread = std::mem::take(unread);
    for socket in &unread {
        fresh.learn(socket.facts, &chosen(socket.facts));
    }
    let fresh = &*fresh;
    let read = side_by_side::map(&unread, |socket| read(socket, fresh));
    for (socket, options) in unread.into_iter().zip(read) {
        match options {
            Ok(options) => put(cx, socket.id, options),
            Err(e) => {
                let problem = Problem::new(e).object(socket.object).step("read its options");
                cx.state::<Reading>().problems.push(problem);
            }
        }
    }
}

fn read(socket: &Unread, fresh: &Fresh) -> Result<Options, SysError> {
    let (fd, facts) = (socket.fd.as_fd(), socket.facts);
    let is_inet = facts.domain != libc::AF_UNIX;
    let is_tcp = is_inet && facts.kind == libc::SOCK_STREAM;
    Ok(Options {
        plain: socket_options::read_plain(fd, facts.domain)?,
        ip: if is_inet { Some(inet_options::read_ip(fd, facts)?) } else { None },
        tcp: if is_tcp { Some(inet_options::read_tcp(fd)?) } else { None },
        more: fresh.differing(fd, facts),
    })
}

/// The filter is in the entry already: whoever has one that cannot be saved was refused.
fn put(cx: &mut FilesDump<'_>, id: u32, options: Options) {
    let Options { plain, ip, tcp, more } = options;
    let with_filter = |saved: &SkOptsEntry| SkOptsEntry { so_filter: saved.so_filter.clone(), ..plain };
    match cx.entry_mut(id) {
        Some(FileEntry { usk: Some(unix), .. }) => unix.opts = with_filter(&unix.opts),
        Some(FileEntry { isk: Some(inet), .. }) => {
            inet.opts = with_filter(&inet.opts);
            inet.ip_opts = ip;
            inet.tcp_opts = Some(tcp.unwrap_or_default());
        }
        // It was refused, and is to be lost.
        _ => return,
    }
    if !more.is_empty() {
        cx.state::<Sockets>().own.entry(id).or_default().options.extend(more);
    }
}
