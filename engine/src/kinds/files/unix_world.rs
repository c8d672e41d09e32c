//! Unix sockets of a tree, made again, all at once: most calls that make them concern two.
//!
//! Steps, in order, because each relies on those before:
//! 1. Sockets without a connection are made and bound, and some listen. Names of files that have others now, or none, are
//!    bound below a private root directory, where they disturb nobody.
//! 2. Connections: a pair where the ends have no names, and else through whoever listens, or listened, under the name.
//! 3. Datagrams are queued where anybody may send, then datagram sockets are connected, then all other data is queued.
//! 4. Connections that nobody accepted are made again, in their order.
//! 5. Directions are shut down, peers that were closed are closed, and options are set, which might hinder all that.
//!
//! The kernel notes who makes a pair, listens and connects (`SO_PEERCRED`), so these calls are made by the stubs of the
//! tasks that made them first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use proto::messages::{StasisSocketEntry, UnixSkEntry};

use super::socket_options::{self, Fresh, MORE};
use super::socket_queue::{Saved, Sockets};
use super::unix::{ESTABLISHED, EXTERNAL, LISTEN};
use super::unix_calls::{as_somebody, exists, send};
use super::unix_names::{self, Place};
use super::{FileRefusal, FilesRestore, InTask, SocketFacts, set_common};
use crate::args;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::invalid;
use crate::net_spaces;
use crate::sys::pidfd;
use crate::sys::socket::{self, Along, Credentials};

/// Pairs that a task makes at once; it has them for a moment, and may not have many descriptors.
const PAIRS_AT_ONCE: usize = 24;

/// Sockets that were made, by id, until their tasks get them.
#[derive(Debug, Default)]
struct Made(HashMap<u32, OwnedFd>);

/// The socket with this id.
pub(super) fn take(cx: &mut FilesRestore<'_>, id: u32) -> Result<OwnedFd, Problem> {
    let made = cx.state::<Made>().0.get(&id).ok_or_else(|| Problem::new(FileRefusal::NoSuchId(id)))?;
    Ok(made.try_clone().map_err(SysError::io("dup"))?)
}

/// One socket on its way.
struct Socket {
    entry: UnixSkEntry,
    own: StasisSocketEntry,
    packets: Vec<Saved>,
    fd: Option<OwnedFd>,
    /// Whether it came to be as one of a pair, and can be sent to by the other only.
    is_paired: bool,
    /// Whether it may have options already: it was handed in, or accepted.
    is_used: bool,
    /// Its peer, if nobody has that any more.
    gone: Option<OwnedFd>,
}

impl Socket {
    fn kind(&self) -> i32 {
        self.entry.r#type as i32
    }

    fn is_connected_stream(&self) -> bool {
        self.kind() != libc::SOCK_DGRAM && self.entry.state == ESTABLISHED
    }

    fn is_external(&self) -> bool {
        self.entry.uflags & EXTERNAL != 0
    }

    /// Who the socket sees at the other end.
    fn peer_credentials(&self) -> Option<Credentials> {
        let seen = self.own.peer_credentials.as_ref()?;
        Some(Credentials { pid: seen.pid, uid: seen.uid, gid: seen.gid })
    }

    fn listener_key(&self) -> ListenerKey {
        (self.entry.name.clone(), self.entry.r#type, self.own.file_dev, self.own.file_ino)
    }

    fn object(&self) -> Object {
        let name = unix_names::printable(&self.entry.name);
        Object::Named { kind: "unix socket", name: format!("{name} (inode {})", self.entry.ino) }
    }
}

/// Name, type and file of a socket that listens, which those that it accepted have as well.
type ListenerKey = (Vec<u8>, u32, Option<u64>, Option<u64>);

/// All sockets, by their old inode numbers.
struct World<'a, 'cx> {
    sockets: BTreeMap<u32, Socket>,
    tasks: &'a mut dyn InTask,
    cx: &'a mut FilesRestore<'cx>,
    /// Files that a socket was bound to already: the first one has it, the others have its name only.
    bound: HashSet<(u64, u64, Vec<u8>)>,
    place: Place,
    /// Those that have a name, by that.
    by_name: HashMap<Vec<u8>, u32>,
    /// Those that listen, by what their accepted connections have in common with them.
    listeners: HashMap<ListenerKey, u32>,
    /// Pairs that were made ahead, by type and maker.
    pairs: HashMap<(i32, Credentials), Vec<(OwnedFd, OwnedFd)>>,
}

/// Makes all unix sockets.
pub(super) fn make(cx: &mut FilesRestore<'_>, tasks: &mut dyn InTask) -> Result<(), Problem> {
    let entries: Vec<UnixSkEntry> =
        cx.entries.values().filter_map(|entry| entry.usk.as_deref().cloned()).collect();
    let mut groups: BTreeMap<Option<u32>, Vec<UnixSkEntry>> = BTreeMap::new();
    for entry in entries {
        groups.entry(entry.ns_id).or_default().push(entry);
    }
    for (space, entries) in groups {
        let _there = net_spaces::enter(&cx.options.inside.spaces, space)?;
        make_in_space(cx, tasks, entries)?;
    }
    Ok(())
}

/// Makes those of one network namespace, which we are in.
fn make_in_space(
    cx: &mut FilesRestore<'_>,
    tasks: &mut dyn InTask,
    entries: Vec<UnixSkEntry>,
) -> Result<(), Problem> {
    let saved = cx.state::<Sockets>();
    let mut sockets = BTreeMap::new();
    for entry in entries {
        let own = saved.own.get(&entry.id).cloned().unwrap_or_default();
        let packets = saved.packets.remove(&entry.id).unwrap_or_default();
        let socket = Socket { own, packets, fd: None, is_paired: false, is_used: false, gone: None, entry };
        if let Some(twice) = sockets.insert(socket.entry.ino, socket) {
            let what = "two unix sockets have the same inode number";
            return Err(invalid(&proto::catalogue::FILES, 0, what).object(twice.object()));
        }
    }
    let named = sockets.iter().filter(|(_, s)| !s.entry.name.is_empty());
    let by_name = named.map(|(ino, s)| (s.entry.name.clone(), *ino)).collect();
    // The first of several alike.
    let listening = sockets.iter().rev().filter(|(_, s)| s.entry.state == LISTEN && !s.is_external());
    let listeners = listening.map(|(ino, s)| (s.listener_key(), *ino)).collect();
    let (bound, place, pairs) = (HashSet::new(), Place::default(), HashMap::new());
    let mut world = World { sockets, tasks, cx, bound, place, by_name, listeners, pairs };
    world.inherit()?;
    world.pair_datagrams()?;
    world.make_unconnected()?;
    world.connect_streams()?;
    world.share();
    world.queue(false)?;
    world.connect_datagrams()?;
    world.queue(true)?;
    world.wait_again()?;
    world.finish()
}

impl World<'_, '_> {
    fn inos(&self, which: impl Fn(&Socket) -> bool) -> Vec<u32> {
        let sockets = self.sockets.iter().filter(|(_, s)| s.fd.is_none() && !s.is_external() && which(s));
        sockets.map(|(ino, _)| *ino).collect()
    }

    fn socket(&mut self, ino: u32) -> Result<&mut Socket, Problem> {
        let missing = || invalid(&proto::catalogue::FILES, 0, "it names a unix socket that is not there");
        self.sockets.get_mut(&ino).ok_or_else(missing)
    }

    fn fd(&self, ino: u32) -> Result<BorrowedFd<'_>, Problem> {
        let missing =
            || invalid(&proto::catalogue::FILES, 0, "unix sockets are connected in an impossible way");
        self.sockets.get(&ino).and_then(|s| s.fd.as_ref()).map(|fd| fd.as_fd()).ok_or_else(missing)
    }

    /// A duplicate, for calls that need all of us besides.
    fn handle(&self, ino: u32) -> Result<OwnedFd, Problem> {
        Ok(self.fd(ino)?.try_clone_to_owned().map_err(SysError::io("dup"))?)
    }

    /// Uses what the caller gives us.
    fn inherit(&mut self) -> Result<(), Problem> {
        for socket in self.sockets.values_mut() {
            if let Some(fd) = self.cx.options.inherited(&format!("socket:[{}]", socket.entry.ino)) {
                socket.fd = Some(unix_names::duplicate(fd).about(|| socket.object())?);
                socket.is_used = true;
                if !std::mem::take(&mut socket.packets).is_empty() {
                    log::warn!("{}: what waited to be read is lost, since it was handed in", socket.object());
                }
            }
        }
        Ok(())
    }

    /// Datagram sockets whose peer has no name to be reached by must have been made as a pair.
    fn pair_datagrams(&mut self) -> Result<(), Problem> {
        for ino in self.inos(|s| s.kind() == libc::SOCK_DGRAM) {
            let socket = self.socket(ino)?;
            if socket.fd.is_some() {
                continue;
            }
            let (peer, gone) = (socket.entry.peer, socket.own.peer_gone.unwrap_or(false));
            let (credentials, object) = (socket.peer_credentials(), socket.object());
            let is_nameless_gone = gone && socket.own.peer_name.is_none();
            let is_nameless =
                self.sockets.get(&peer).is_some_and(|p| p.entry.name.is_empty() && p.fd.is_none());
            if !is_nameless_gone && !is_nameless {
                continue;
            }
            let (a, b) = self.pair(libc::SOCK_DGRAM, credentials).about(|| object.clone())?;
            let socket = self.socket(ino)?;
            (socket.fd, socket.is_paired) = (Some(a), true);
            if is_nameless_gone {
                socket.gone = Some(b);
            } else {
                let peer = self.socket(peer)?;
                peer.is_paired = peer.entry.peer == ino;
                peer.fd = Some(b);
            }
            self.bind(ino).about(|| object)?;
        }
        Ok(())
    }

    /// Sockets without a connection; those that listen come first, because files are theirs.
    fn make_unconnected(&mut self) -> Result<(), Problem> {
        let mut inos = self.inos(|s| !s.is_connected_stream());
        inos.sort_by_key(|ino| self.sockets.get(ino).is_some_and(|s| s.entry.state != LISTEN));
        for ino in inos {
            let Some(Socket { entry, own, .. }) = self.sockets.get(&ino) else { continue };
            let made = unix_names::make(self.cx, entry, own);
            let socket = self.socket(ino)?;
            let object = socket.object();
            socket.fd = Some(made.about(|| object.clone())?);
            let backlog = (socket.entry.state == LISTEN).then_some(socket.entry.backlog);
            let credentials = socket.peer_credentials();
            self.bind(ino).about(|| object.clone())?;
            if let Some(backlog) = backlog {
                let fd = self.handle(ino)?;
                self.listen_as(fd.as_fd(), backlog, credentials).about(|| object)?;
            }
        }
        Ok(())
    }

    /// Connections of streams and sequenced packets.
    fn connect_streams(&mut self) -> Result<(), Problem> {
        for ino in self.inos(Socket::is_connected_stream) {
            let socket = self.socket(ino)?;
            if socket.fd.is_some() {
                continue;
            }
            let (peer, object) = (socket.entry.peer, socket.object());
            let peers = self.sockets.get(&peer).map(|p| (p.entry.state, p.is_external(), p.fd.is_some()));
            match peers {
                // Its time comes when all others are accepted.
                Some((LISTEN, false, _)) => {
                    let socket = self.socket(ino)?;
                    socket.fd = Some(socket::create(libc::AF_UNIX, socket.kind(), 0)?);
                    self.bind(ino)
                }
                Some((_, true, _)) => self.connect_outside(ino, peer),
                Some((_, _, false)) => self.connect_pair(ino, peer),
                Some(_) => Err(invalid(
                    &proto::catalogue::FILES,
                    0,
                    "two unix sockets are connected to the same third",
                )),
                None => self.connect_gone(ino),
            }
            .about(|| object)?;
        }
        Ok(())
    }

    /// A connection whose both ends are in the tree.
    fn connect_pair(&mut self, a: u32, b: u32) -> Result<(), Problem> {
        // An accepted socket has the name that it was accepted under, and a greater inode number as a rule.
        let listens = |world: &Self, ino: u32| world.listener_of(ino).is_some();
        let named =
            |world: &Self, ino: u32| world.sockets.get(&ino).is_some_and(|s| !s.entry.name.is_empty());
        let b_serves = match (listens(self, a), listens(self, b)) {
            (true, false) => false,
            (false, true) => true,
            _ => named(self, b) && (!named(self, a) || b > a),
        };
        let (client, server) = if b_serves { (a, b) } else { (b, a) };
        let (kind, seen_by_client) = {
            let client = self.socket(client)?;
            (client.kind(), client.peer_credentials())
        };
        let seen_by_server = self.socket(server)?.peer_credentials();
        if !named(self, server) {
            let (a, b) = self.pair(kind, seen_by_client)?;
            self.socket(client)?.fd = Some(a);
            self.socket(server)?.fd = Some(b);
            return self.bind(client);
        }
        let name = self.socket(server)?.entry.name.clone();
        let listener = self.listener_of(server);
        let (a, b) = self.through(kind, &name, listener, seen_by_client, seen_by_server)?;
        self.socket(client)?.fd = Some(a);
        let server = self.socket(server)?;
        (server.fd, server.is_used) = (Some(b), true);
        self.bind(client)
    }

    /// A socket that listens under the name of this one.
    fn listener_of(&self, ino: u32) -> Option<u32> {
        let socket = self.sockets.get(&ino).filter(|s| !s.entry.name.is_empty())?;
        self.listeners.get(&socket.listener_key()).copied()
    }

    /// Connects through a listener, the real one or one for the while: client and server.
    fn through(
        &mut self,
        kind: i32,
        name: &[u8],
        listener: Option<u32>,
        seen_by_client: Option<Credentials>,
        seen_by_server: Option<Credentials>,
    ) -> Result<(OwnedFd, OwnedFd), Problem> {
        let client = socket::create(libc::AF_UNIX, kind, 0)?;
        let temporary;
        let listener = if let Some(listener) = listener {
            self.handle(listener)?
        } else {
            temporary = socket::create(libc::AF_UNIX, kind, 0)?;
            self.place.bind_private(temporary.as_fd(), name)?;
            self.listen_as(temporary.as_fd(), 1, seen_by_client)?;
            temporary
        };
        self.connect_as(client.as_fd(), listener.as_fd(), name, seen_by_server)?;
        let server = socket::accept(listener.as_fd())?;
        Ok((client, server))
    }

    /// A connection whose other end is closed.
    fn connect_gone(&mut self, ino: u32) -> Result<(), Problem> {
        let socket = self.socket(ino)?;
        let (kind, seen) = (socket.kind(), socket.peer_credentials());
        let (name, peer_name) = (socket.entry.name.clone(), socket.own.peer_name.clone());
        let (own, gone) = match (peer_name.as_deref().and_then(|name| name.get(2..)), self.listener_of(ino)) {
            (_, listener @ Some(_)) => {
                let (gone, own) = self.through(kind, &name, listener, None, seen)?;
                (own, gone)
            }
            (Some(peer_name), None) => {
                let as_listened = self.sockets.values().find(|s| {
                    s.entry.state == LISTEN
                        && s.entry.name == peer_name
                        && !s.is_external()
                        && s.kind() == kind
                });
                let listener = as_listened.map(|s| s.entry.ino);
                self.through(kind, peer_name, listener, seen, None)?
            }
            (None, None) => self.pair(kind, seen)?,
        };
        let socket = self.socket(ino)?;
        (socket.fd, socket.gone, socket.is_used) = (Some(own), Some(gone), true);
        if self.listener_of(ino).is_none() {
            self.bind(ino)?;
        }
        Ok(())
    }

    /// Connects again to somebody outside of the tree.
    fn connect_outside(&mut self, ino: u32, peer: u32) -> Result<(), Problem> {
        let to = unix_names::address(&self.socket(peer)?.entry.name);
        let socket = self.socket(ino)?;
        let is_new = socket.fd.is_none();
        let fd = match socket.fd.take() {
            Some(fd) => fd,
            None => socket::create(libc::AF_UNIX, socket.kind(), 0)?,
        };
        socket::connect(fd.as_fd(), &to).while_trying_to("connect to its peer outside of the tree again")?;
        socket.fd = Some(fd);
        if is_new { self.bind(ino) } else { Ok(()) }
    }

    /// From here on, other files may ask for sockets: those in flight.
    fn share(&mut self) {
        for socket in self.sockets.values() {
            if let Some(fd) = socket.fd.as_ref().and_then(|fd| fd.try_clone().ok()) {
                self.cx.state::<Made>().0.insert(socket.entry.id, fd);
            }
        }
    }

    /// Queues what waited to be read: of sockets that anybody may send to, or of the others.
    fn queue(&mut self, connected: bool) -> Result<(), Problem> {
        let inos: Vec<u32> = self.sockets.keys().copied().collect();
        for ino in inos {
            let socket = self.socket(ino)?;
            if (socket.is_paired || socket.is_connected_stream()) != connected || socket.packets.is_empty() {
                continue;
            }
            let (packets, object) = (std::mem::take(&mut socket.packets), socket.object());
            self.fill(ino, &packets).about(|| object).while_trying_to("queue its data again")?;
        }
        Ok(())
    }

    fn fill(&mut self, ino: u32, packets: &[Saved]) -> Result<(), Problem> {
        for id in packets.iter().flat_map(|packet| &packet.rights) {
            self.cx.open(*id)?;
        }
        let socket = self.socket(ino)?;
        let is_stream = socket.kind() == libc::SOCK_STREAM;
        let (name, anybody) = (socket.entry.name.clone(), !socket.is_paired && !socket.is_connected_stream());
        let peer = socket.entry.peer;
        let total: usize = packets.iter().map(|packet| packet.bytes.len() + 4096).sum();
        for packet in packets {
            let mut to = Vec::new();
            let temporary;
            let sender = if anybody {
                let target = self.handle(ino)?;
                to = self.place.reach(target.as_fd(), &name)?;
                let from = packet.own.source.as_deref().and_then(|s| s.get(2..)).unwrap_or_default();
                if let Some(sender) = self.by_name.get(from).filter(|_| !from.is_empty()) {
                    self.fd(*sender)?
                } else {
                    temporary = socket::create(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
                    if !from.is_empty() {
                        self.place.bind_private(temporary.as_fd(), from)?;
                    }
                    temporary.as_fd()
                }
            } else {
                let gone = self.sockets.get(&ino).and_then(|s| s.gone.as_ref());
                gone.map_or_else(|| self.fd(peer), |gone| Ok(gone.as_fd()))?
            };
            socket_options::widen(sender, total.saturating_mul(2))?;
            let opened = packet.rights.iter().map(|id| self.cx.opened(*id).ok_or(FileRefusal::NoSuchId(*id)));
            let rights = opened.collect::<Result<Vec<_>, _>>()?;
            send(
                sender,
                packet,
                &Along { to: &to, rights: &rights, credentials: packet.credentials().filter(exists) },
                is_stream,
            )?;
        }
        Ok(())
    }

    /// Datagram sockets that have a peer.
    fn connect_datagrams(&mut self) -> Result<(), Problem> {
        let inos: Vec<u32> =
            self.sockets.iter().filter(|(_, s)| !s.is_paired && !s.is_external()).map(|(i, _)| *i).collect();
        for ino in inos {
            let socket = self.socket(ino)?;
            if socket.kind() != libc::SOCK_DGRAM || (socket.entry.peer == 0 && socket.own.peer_gone.is_none())
            {
                continue;
            }
            let (peer, object) = (socket.entry.peer, socket.object());
            let gone_name = socket.own.peer_name.clone().unwrap_or_default();
            if self.sockets.get(&peer).is_some_and(Socket::is_external) {
                self.connect_outside(ino, peer).about(|| object)?;
                continue;
            }
            let (target, name) = if peer == 0 {
                let name = gone_name.get(2..).unwrap_or_default().to_vec();
                let gone = socket::create(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
                self.place.bind_private(gone.as_fd(), &name).about(|| object.clone())?;
                (gone, name)
            } else {
                (self.handle(peer)?, self.socket(peer)?.entry.name.clone())
            };
            let to = self.place.reach(target.as_fd(), &name)?;
            socket::connect(self.fd(ino)?, &to).about(|| object).while_trying_to("connect it to its peer")?;
        }
        Ok(())
    }

    /// Connects those again that waited to be accepted.
    fn wait_again(&mut self) -> Result<(), Problem> {
        let listeners: Vec<(u32, Vec<u32>)> = self
            .sockets
            .iter()
            .filter(|(_, s)| s.entry.state == LISTEN && !s.is_external())
            .map(|(ino, s)| (*ino, s.own.pending.clone()))
            .collect();
        for (listener, pending) in listeners {
            // CRIU says who waits, and not in which order.
            let waits = |s: &&Socket| s.is_connected_stream() && s.entry.peer == listener;
            let waiting: Vec<u32> = self.sockets.values().filter(waits).map(|s| s.entry.ino).collect();
            let rest: Vec<u32> = waiting.iter().copied().filter(|ino| !pending.contains(ino)).collect();
            for client in pending.into_iter().chain(rest).filter(|ino| waiting.contains(ino)) {
                let (target, name) = {
                    let listener = self.socket(listener)?;
                    (listener.entry.ino, listener.entry.name.clone())
                };
                let (id, object) = {
                    let client = self.socket(client)?;
                    (client.entry.id, client.object())
                };
                // Nobody has seen yet who connected; one who has the socket is as good.
                let who = self.tasks.holder(id);
                let target = self.handle(target)?;
                let own = self.handle(client)?;
                // A full queue must not make us wait; its own flags are set in the end.
                set_common(own.as_fd(), libc::O_NONBLOCK as u32, None)?;
                self.connect_as(own.as_fd(), target.as_fd(), &name, who)
                    .about(|| object)
                    .while_trying_to("have it wait to be accepted again")?;
            }
        }
        Ok(())
    }

    /// Has the kernel note who listens.
    fn listen_as(
        &mut self,
        socket: BorrowedFd<'_>,
        backlog: u32,
        who: Option<Credentials>,
    ) -> Result<(), Problem> {
        let Some(who) = who else { return Ok(socket::listen(socket, backlog as i32)?) };
        let done = self.tasks.run_in(who.pid as i32, &mut |_, batch| {
            let fd = batch.fd(socket);
            as_somebody(batch, who, |batch| {
                batch.call("listen", libc::SYS_listen, args![fd, backlog]);
            });
            batch.call("close", libc::SYS_close, args![fd]);
        })?;
        if done.is_none() {
            socket::listen(socket, backlog as i32)?;
        }
        Ok(())
    }

    /// Has the kernel note who connects.
    fn connect_as(
        &mut self,
        socket: BorrowedFd<'_>,
        listener: BorrowedFd<'_>,
        name: &[u8],
        who: Option<Credentials>,
    ) -> Result<(), Problem> {
        if let Some(who) = who {
            let file = if unix_names::is_path(name) { Some(socket::unix_file(listener)?) } else { None };
            let done = self.tasks.run_in(who.pid as i32, &mut |spare, batch| {
                let fd = batch.fd(socket);
                let mut to = unix_names::address(name);
                if let Some(file) = &file {
                    let arrived = batch.fd(file.as_fd());
                    batch.call("dup3", libc::SYS_dup3, args![arrived, spare, libc::O_CLOEXEC]);
                    batch.call("close", libc::SYS_close, args![arrived]);
                    to = unix_names::address(format!("/proc/self/fd/{spare}").as_bytes());
                }
                let len = to.len();
                let to = batch.input(to.as_slice());
                as_somebody(batch, who, |batch| {
                    batch.call("connect", libc::SYS_connect, args![fd, to, len]);
                });
                batch.call("close", libc::SYS_close, args![fd]);
                if file.is_some() {
                    batch.call("close", libc::SYS_close, args![spare]);
                }
            })?;
            if done.is_some() {
                return Ok(());
            }
        }
        let to = self.place.reach(listener, name)?;
        Ok(socket::connect(socket, &to)?)
    }

    /// A pair, made by whom the kernel noted.
    fn pair(&mut self, kind: i32, who: Option<Credentials>) -> Result<(OwnedFd, OwnedFd), Problem> {
        let Some(who) = who else { return Ok(socket::pair(kind)?) };
        if let Some(pair) = self.pairs.get_mut(&(kind, who)).and_then(Vec::pop) {
            return Ok(pair);
        }
        // Others of the sort are needed soon, and a task is asked for many as fast as for one.
        let alike = |s: &&Socket| s.fd.is_none() && s.kind() == kind && s.peer_credentials() == Some(who);
        let count = self.sockets.values().filter(alike).take(2 * PAIRS_AT_ONCE).count().div_ceil(2);
        let mut pairs = self.pairs_of(kind, who, count.max(1))?;
        let pair = pairs.pop();
        self.pairs.insert((kind, who), pairs);
        Ok(match pair {
            Some(pair) => pair,
            None => socket::pair(kind)?,
        })
    }

    /// Pairs that a task makes; none if there is no such task.
    fn pairs_of(
        &mut self,
        kind: i32,
        who: Credentials,
        count: usize,
    ) -> Result<Vec<(OwnedFd, OwnedFd)>, Problem> {
        let pid = who.pid as i32;
        let mut made = Vec::new();
        let replies = self.tasks.run_in(pid, &mut |_, batch| {
            made = (0..count).map(|_| batch.output::<[i32; 2]>()).collect();
            as_somebody(batch, who, |batch| {
                for fds in &made {
                    let args = args![libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, *fds];
                    batch.call("socketpair", libc::SYS_socketpair, args);
                }
            });
        })?;
        let Some(replies) = replies else { return Ok(Vec::new()) };
        let numbers: Vec<[i32; 2]> =
            made.into_iter().map(|fds| replies.output(fds)).collect::<Result<_, _>>()?;
        let task = pidfd::open(pid)?;
        let mut pairs = Vec::new();
        for [a, b] in &numbers {
            pairs.push((pidfd::getfd(&task, *a)?, pidfd::getfd(&task, *b)?));
        }
        self.tasks.run_in(pid, &mut |_, batch| {
            for fd in numbers.iter().flatten() {
                batch.call("close", libc::SYS_close, args![*fd]);
            }
        })?;
        Ok(pairs)
    }

    /// Gives a socket its name.
    fn bind(&mut self, ino: u32) -> Result<(), Problem> {
        let Some(Socket { entry, own, fd: Some(fd), .. }) = self.sockets.get(&ino) else { return Ok(()) };
        if entry.name.is_empty() {
            return Ok(());
        }
        let key = (own.file_dev.unwrap_or(0), own.file_ino.unwrap_or(0), entry.name.clone());
        let is_first = self.bound.insert(key);
        if own.mnt_id.is_some() && unix_names::is_bound(fd.as_fd())? {
            return unix_names::set_permissions_of(fd.as_fd(), entry);
        }
        let is_private = entry.deleted == Some(true) || own.mnt_id.is_some() || !is_first;
        if unix_names::is_path(&entry.name) && is_private {
            return self.place.bind_private(fd.as_fd(), &entry.name);
        }
        Place::bind(fd.as_fd(), entry, own)
    }

    /// Shuts directions down, closes what was closed, sets flags and options.
    fn finish(mut self) -> Result<(), Problem> {
        let mut fresh = Fresh::default();
        for socket in self.sockets.values_mut().filter(|s| !s.is_external()) {
            let object = socket.object();
            let Some(fd) = &socket.fd else { continue };
            let fd = fd.as_fd();
            if let Some(gone) = socket.gone.take() {
                if socket.own.reset == Some(true) {
                    // Closed with unread data, it leaves an error to its peer.
                    socket::send(fd, b"?", &Along::default(), libc::MSG_DONTWAIT).about(|| object.clone())?;
                }
                drop(gone);
            }
            let how = match socket.entry.shutdown.unwrap_or(0) {
                1 => Some(nix::sys::socket::Shutdown::Read),
                2 => Some(nix::sys::socket::Shutdown::Write),
                3 => Some(nix::sys::socket::Shutdown::Both),
                _ => None,
            };
            if let Some(how) = how {
                nix::sys::socket::shutdown(fd.as_raw_fd(), how)
                    .map_err(SysError::of("shutdown"))
                    .about(|| object.clone())?;
            }
            let mut options = || -> Result<(), Problem> {
                if socket.is_used {
                    socket_options::write(fd, libc::AF_UNIX, &socket.entry.opts)?;
                } else {
                    let facts = SocketFacts { domain: libc::AF_UNIX, kind: socket.kind(), protocol: 0 };
                    socket_options::write_new(fd, &mut fresh, facts, &socket.entry.opts)?;
                }
                socket_options::write_more(fd, &socket.own.options, MORE)?;
                set_common(fd, socket.entry.flags, Some(&socket.entry.fown))
            };
            options().about(|| object).while_trying_to("set its options")?;
        }
        Ok(())
    }
}

/// Finds names that somebody else has by now.
pub(super) fn check(cx: &FilesRestore<'_>, entry: &UnixSkEntry) -> Result<(), Problem> {
    let own =
        cx.peek::<Sockets>().and_then(|sockets| sockets.own.get(&entry.id)).cloned().unwrap_or_default();
    if entry.uflags & EXTERNAL != 0
        || entry.name.is_empty()
        || entry.deleted == Some(true)
        || own.mnt_id.is_some()
    {
        return Ok(());
    }
    if !KINDS.contains(&(entry.r#type as i32)) {
        return Err(invalid(&proto::catalogue::FILES, 0, "a unix socket has an impossible type"));
    }
    unix_names::check(entry, &own)
}

const KINDS: [i32; 3] = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
