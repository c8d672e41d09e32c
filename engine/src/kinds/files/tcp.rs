//! TCP sockets, the part of internet sockets that has connections.
//!
//! Images have one type for all internet sockets, so they are one kind, in `inet.rs`; what is special about TCP is here.
//!
//! A connection is saved when everything else is known to work: its packets are held back ([`net_lock`]), and its queues and
//! numbers are copied in repair mode ([`tcp_repair`]), on and off again for each. Only when the images are complete, and the
//! tasks are about to be killed, is the mode turned on to stay: so that sockets end without a word to their peers. The lock then
//! lasts until the restore, which finds its name in the images.
//!
//! Restore makes all connections before any other socket, in repair mode, and lets them talk when the whole tree is ready. In a
//! network namespace that is made for the tree, their packets are held back from its beginning on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use proto::messages::{FileEntry, InetSkEntry, StasisNetworkEntry, StasisSocketEntry, TcpStreamEntry};

use super::inet::InetRefusal;
use super::inet_address::{self, of_image};
use super::socket_queue::{Saved, Sockets};
use super::{FdFacts, FilesDump, FilesRestore, inet, sock_diag, socket_options, tcp_closed};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Aside, Images, NewImages, Written, invalid};
use crate::net_lock::{self, Ends, Lasting, Lock, LockError, Method, Note, Sweep};
use crate::net_spaces::{self, NetSpaces};
use crate::options::{Connections, NetworkLock};
use crate::procfs::link::NamespaceType;
use crate::side_by_side;
use crate::supervise::Guardian;
use crate::sys::socket;
use crate::tcp_repair::{self, Connection, Negotiated, Repair, Restored, State, Window};
use crate::visit::Visit;

/// Bits of `tcp_stream_entry.opt_mask`: those of `tcpi_options`.
const TIMESTAMPS: u32 = 1;
const SACK: u32 = 2;
const WINDOW_SCALE: u32 = 4;
/// Bytes of a queue, at most: more than the kernel lets anybody have.
const LONGEST: u32 = 1 << 30;

/// A connection of the tree, until it is saved.
#[derive(Debug)]
struct Seen {
    id: u32,
    ino: u32,
    ends: Ends,
    object: Object,
    fd: OwnedFd,
    /// `SO_REUSEADDR`.
    reuse: i32,
}

/// Connections of the tree, and the locks that hold their packets back, one in each network namespace.
#[derive(Debug, Default)]
struct Dumped {
    connections: Vec<Seen>,
    locks: Vec<Lock>,
    /// Locks that last.
    lasting: Vec<Persistent>,
}

/// A lock that lasts.
#[derive(Debug)]
struct Persistent {
    method: Method,
    name: String,
    lock: Lasting,
    /// Where, if that is not the network namespace that we are in.
    space: Option<File>,
}

impl Persistent {
    fn there(&self) -> Result<Option<Visit>, SysError> {
        self.space.as_ref().map(net_spaces::visit).transpose()
    }
}

/// Looks at a socket: completes its entry, or refuses.
pub(super) fn dump(
    cx: &mut FilesDump<'_>,
    fd: &FdFacts<'_>,
    socket: BorrowedFd<'_>,
    entry: &mut InetSkEntry,
    own: &mut StasisSocketEntry,
    ends: Ends,
) -> Result<(), Problem> {
    let (state, waiting, backlog) = fd.answers()?.state.unwrap_or_else(|| tcp_repair::state(socket))?;
    entry.state = state.number();
    match state {
        State::Listen if waiting != 0 && !cx.options.skip_in_flight => {
            Err(Problem::new(InetRefusal::Backlog(waiting)))
        }
        State::Listen => {
            entry.backlog = backlog;
            own.options.extend(socket_options::incoming_cpu(socket));
            Ok(())
        }
        State::Close | State::TimeWait => {
            entry.state = State::Close.number();
            if was_connected(socket)? {
                closed(cx, entry, own, socket)?;
            }
            Ok(())
        }
        state => match cx.options.connections {
            Connections::Refused => Err(Problem::new(InetRefusal::Connected {
                from: ends.0.to_string(),
                to: ends.1.to_string(),
                state: state.name(),
            })),
            Connections::Closed => {
                entry.state = State::Close.number();
                own.peer_gone = Some(true);
                own.reset = Some(true);
                Ok(())
            }
            Connections::Kept if state == State::SynSent => {
                let asked = sock_diag::asked_for(entry.family as i32)?;
                let peer =
                    asked.get(&entry.ino).ok_or_else(|| Problem::new(InetRefusal::State(state.name())))?;
                entry.dst_addr = inet_address::words(peer.ip());
                entry.dst_port = peer.port().into();
                Ok(())
            }
            Connections::Kept if state.is_connected() => {
                let object = fd.object();
                let fd = socket.try_clone_to_owned().map_err(SysError::io("dup"))?;
                let reuse = i32::from(entry.opts.reuseaddr == Some(true));
                let seen = Seen { id: entry.id, ino: entry.ino, ends, object, fd, reuse };
                cx.state::<Dumped>().connections.push(seen);
                Ok(())
            }
            Connections::Kept => Err(Problem::new(InetRefusal::State(state.name()))),
        },
    }
}

/// Whether a socket without a connection had one: then nothing comes from it any more, and reading does not wait.
fn was_connected(socket: BorrowedFd<'_>) -> Result<bool, SysError> {
    let mut polled = [PollFd::new(socket, PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(SysError::of("poll"))?;
    let [polled] = polled;
    Ok(polled.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)))
}

/// A socket whose connection is over: it may have an error to report, and data that nobody has read.
fn closed(
    cx: &mut FilesDump<'_>,
    entry: &InetSkEntry,
    own: &mut StasisSocketEntry,
    socket: BorrowedFd<'_>,
) -> Result<(), Problem> {
    own.peer_gone = Some(true);
    own.reset = super::socket_queue::has_error(socket)?.then_some(true);
    let len = socket::queued(socket)?;
    if len > 0 {
        let mut bytes = vec![0; len as usize];
        let received = socket::receive(socket, &mut bytes, libc::MSG_PEEK | libc::MSG_DONTWAIT)?;
        bytes.truncate(received.len);
        cx.state::<Sockets>().packets.insert(entry.id, vec![Saved { bytes, ..Saved::default() }]);
    }
    Ok(())
}

/// Saves all connections, while their packets are held back.
pub(super) fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let connections = std::mem::take(&mut cx.state::<Dumped>().connections);
    if connections.is_empty() {
        return Ok(());
    }
    cx.last_deeds.silenced = connections.iter().map(|seen| seen.fd.as_raw_fd()).collect();
    let method = match cx.options.network_lock {
        NetworkLock::Nftables => Some(Method::Nftables),
        NetworkLock::Iptables => Some(Method::Iptables),
        NetworkLock::Skip => None,
    };
    if let Some(method) = method {
        sweep(method);
        let name = net_lock::new_name(cx.options.tree);
        let entry = StasisNetworkEntry { table: name.clone(), method: Some(method.name().into()) };
        images.write(&proto::catalogue::STASIS_NETWORK, 0, &[entry])?;
        lock(cx, method, &name, &connections).while_trying_to(HOLD)?;
    }
    let sockets: Vec<(i32, i32)> = connections.iter().map(|c| (c.fd.as_raw_fd(), c.reuse)).collect();
    let aside = images.aside(connections.iter().map(|c| (&proto::catalogue::TCP_STREAM, c.ino.into())))?;
    let save = |seen: &Seen| -> Result<(State, Option<Written>), Problem> {
        let saved = Connection::save(seen.fd.as_fd(), seen.reuse, seen.ends.0, seen.ends.1);
        let saved = saved.about(|| seen.object.clone()).while_trying_to("save its connection")?;
        Ok((saved.state, if saved.state.is_connected() { Some(write(&aside, seen, &saved)?) } else { None }))
    };
    let guardian = Guardian::of_repair(&sockets).while_trying_to("guard its connections")?;
    let mut seen = connections.iter();
    let mut first = Ok(());
    side_by_side::in_order(&connections, save, |saved| match (saved, seen.next()) {
        (Ok((state, written)), Some(seen)) => add(cx, images, seen, state, written),
        (Err(problem), _) if first.is_ok() => first = Err(problem),
        _ => {}
    });
    first?;
    guardian.dismiss().while_trying_to("guard its connections")?;
    cx.state::<Dumped>().connections = connections;
    Ok(())
}

/// The step in which packets are held back.
const HOLD: &str = "hold back the packets of its connections";

/// Holds back the packets of all connections, and prepares what will do so later.
fn lock(cx: &mut FilesDump<'_>, method: Method, name: &str, connections: &[Seen]) -> Result<(), Problem> {
    let note = Note::new(&cx.options.images_dir);
    let mut places: BTreeMap<u32, Vec<Ends>> = BTreeMap::new();
    for seen in connections {
        let space = cx.inet_entry(seen.id).and_then(|entry| entry.ns_id).unwrap_or_default();
        places.entry(space).or_default().push(seen.ends);
    }
    for (space, ends) in places {
        let space = cx.state::<NetSpaces>().beside_home(space);
        let space = space.map(File::try_clone).transpose().map_err(SysError::io("dup"))?;
        let _there = space.as_ref().map(net_spaces::visit).transpose()?;
        let held = Lock::hold(method, &name_of_held(name), &note, &ends)?;
        cx.state::<Dumped>().locks.push(held);
        let lock = Lasting::new(method, name, &note, &ends)?;
        if let Some(prepared) = lock.prepared() {
            let (socket, bytes) = prepared.parts();
            cx.last_deeds.locks.push((socket, bytes.to_vec()));
        }
        cx.state::<Dumped>().lasting.push(Persistent { method, name: name.to_owned(), lock, space });
    }
    Ok(())
}

/// The lock that holds packets back during a dump, beside the one that lasts.
fn name_of_held(lasting: &str) -> String {
    format!("{lasting}x")
}

/// Writes a connection that was copied.
fn write(aside: &Aside, seen: &Seen, saved: &Connection) -> Result<Written, Problem> {
    aside.write(&proto::catalogue::TCP_STREAM, seen.ino.into(), |writer| {
        writer.entry(&describe(saved))?;
        writer.extra(&saved.received)?;
        writer.extra(&saved.written)
    })
}

/// Adds a connection that was copied, and written if there was something left to write.
fn add(cx: &mut FilesDump<'_>, images: &mut NewImages, seen: &Seen, state: State, written: Option<Written>) {
    // Until its packets were held back, it could go on.
    if let Some(entry) = cx.inet_entry(seen.id) {
        entry.state = state.number();
    }
    if let Some(written) = written {
        return images.add(written);
    }
    let own = cx.state::<Sockets>().own.entry(seen.id).or_default();
    (own.peer_gone, own.reset) = (Some(true), Some(true));
}

/// Removes what killed dumps, or images that are gone, left behind by the same method.
fn sweep(method: Method) {
    match net_lock::sweep(Sweep::Stale, &[method]) {
        Ok(found) => found.into_iter().filter(|found| found.removed).for_each(|found| {
            log::warn!("removed the network lock {}, which was left behind: {}", found.name, found.fate);
        }),
        Err(e) => log::warn!("cannot look for network locks that were left behind: {e}"),
    }
}

/// The tasks are about to be killed: their sockets are to end without a word.
pub(super) fn leave(cx: &mut FilesDump<'_>) -> Result<(), Problem> {
    let inside = &cx.options.inside;
    let has_own_spaces = inside.has(NamespaceType::Net) && !inside.shared.contains(&NamespaceType::Net);
    let dumped = cx.state::<Dumped>();
    for lasting in &dumped.lasting {
        let _there = lasting.there()?;
        lasting.lock.persist().while_trying_to("hold back packets until the restore")?;
    }
    let mut silent = Vec::new();
    for seen in &dumped.connections {
        match Repair::start(seen.fd.as_fd(), seen.reuse) {
            Ok(repair) => silent.push(repair),
            Err(e) => {
                dumped.lasting.iter().for_each(unlock);
                return Err(Problem::new(e).object(seen.object.clone()).step("silence its connection"));
            }
        }
    }
    // Locks of the network namespaces that end with the tree end before the devices do.
    for lasting in dumped.lasting.iter().filter(|_| has_own_spaces) {
        let _there = lasting.there()?;
        net_spaces::cut_off()?;
    }
    silent.into_iter().for_each(Repair::keep);
    Ok(())
}

/// Lets packets pass again, since the tree goes on.
fn unlock(lasting: &Persistent) {
    let there = lasting.there().map_err(LockError::from);
    if let Err(e) = there.and_then(|_there| net_lock::remove(lasting.method, &lasting.name)) {
        log::error!("cannot let packets pass again: {e}");
    }
}

fn describe(saved: &Connection) -> TcpStreamEntry {
    let Negotiated { mss, scale, sack, timestamp } = saved.negotiated;
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    TcpStreamEntry {
        inq_len: saved.received.len() as u32,
        inq_seq: saved.receive_seq,
        outq_len: saved.written.len() as u32,
        outq_seq: saved.send_seq,
        opt_mask: bit(timestamp.is_some(), TIMESTAMPS) | bit(sack, SACK) | bit(scale.is_some(), WINDOW_SCALE),
        snd_wscale: scale.map_or(0, |(send, _)| send.into()),
        mss_clamp: mss,
        rcv_wscale: scale.map(|(_, receive)| receive.into()),
        timestamp,
        unsq_len: Some(saved.unsent),
        snd_wl1: saved.window.map(|w| w.snd_wl1),
        snd_wnd: saved.window.map(|w| w.snd_wnd),
        max_window: saved.window.map(|w| w.max_window),
        rcv_wnd: saved.window.map(|w| w.rcv_wnd),
        rcv_wup: saved.window.map(|w| w.rcv_wup),
        ..TcpStreamEntry::default()
    }
}

/// The ends of a connection in an image.
fn ends(image: &InetSkEntry) -> Option<Ends> {
    let scope = inet::scope(image);
    let local = of_image(image, &image.src_addr, image.src_port, scope)?;
    Some((local, of_image(image, &image.dst_addr, image.dst_port, scope)?))
}

/// Reads a connection.
pub(super) fn load(images: &Images, image: &InetSkEntry) -> Result<Connection, Problem> {
    let (kind, ino) = (&proto::catalogue::TCP_STREAM, u64::from(image.ino));
    let (entry, received, written) = images.read_with(kind, ino, |mut reader| {
        let entry: TcpStreamEntry = reader.required()?;
        let received = reader.extra(u64::from(entry.inq_len))?;
        let written = reader.extra(u64::from(entry.outq_len))?;
        Ok((entry, received, written))
    })?;
    let damaged = |what| invalid(kind, ino, what);
    let (local, remote) = ends(image).ok_or_else(|| damaged("its addresses are impossible"))?;
    let state = State::from_number(image.state).filter(|state| state.is_connected());
    let state = state.ok_or_else(|| damaged("a connection is in an impossible state"))?;
    let unsent = entry.unsq_len.unwrap_or(0);
    if entry.inq_len > LONGEST || entry.outq_len > LONGEST || unsent > entry.outq_len {
        return Err(damaged("its queues are impossible"));
    }
    if entry.snd_wscale > 14 || entry.rcv_wscale.unwrap_or(0) > 14 {
        return Err(damaged("its window is shifted further than TCP allows"));
    }
    let has = |bit: u32| entry.opt_mask & bit != 0;
    let window = || {
        Some(Window {
            snd_wl1: entry.snd_wl1?,
            snd_wnd: entry.snd_wnd?,
            max_window: entry.max_window?,
            rcv_wnd: entry.rcv_wnd?,
            rcv_wup: entry.rcv_wup?,
        })
    };
    Ok(Connection {
        local,
        remote,
        state,
        received,
        receive_seq: entry.inq_seq,
        written,
        unsent,
        send_seq: entry.outq_seq,
        negotiated: Negotiated {
            mss: entry.mss_clamp,
            scale: has(WINDOW_SCALE).then_some((entry.snd_wscale as u8, entry.rcv_wscale.unwrap_or(0) as u8)),
            sack: has(SACK),
            timestamp: has(TIMESTAMPS).then_some(entry.timestamp.unwrap_or(0)),
        },
        window: window(),
    })
}

/// Connections that were made again, by the id of their files.
#[derive(Debug, Default)]
struct Made {
    sockets: HashMap<u32, OwnedFd>,
    /// To be let go when the tree is ready.
    silent: Vec<Restored>,
}

/// Whether an image is one of a connection that is to be kept.
fn is_kept(cx: &FilesRestore<'_>, image: &InetSkEntry) -> bool {
    is_tcp(image)
        && State::from_number(image.state).is_some_and(State::is_connected)
        && cx.options.connections != Connections::Closed
}

/// Makes all connections, those of each network namespace in there; first what is left of those that are over, whose
/// addresses nobody has yet.
pub(super) fn prepare(cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
    let mut sockets: Vec<InetSkEntry> =
        cx.entries.values().filter_map(|e| e.isk.as_deref().cloned()).collect();
    sockets.retain(is_tcp);
    let places: BTreeSet<Option<u32>> = sockets.iter().map(|image| image.ns_id).collect();
    for place in places {
        let here: Vec<&InetSkEntry> = sockets.iter().filter(|image| image.ns_id == place).collect();
        let _there = net_spaces::enter(&cx.options.inside.spaces, place)?;
        make_closed(cx, &here)?;
        make_connections(cx, &here)?;
    }
    Ok(())
}

fn is_tcp(image: &InetSkEntry) -> bool {
    image.proto == libc::IPPROTO_TCP as u32 && image.r#type as i32 == libc::SOCK_STREAM
}

fn make_closed(cx: &mut FilesRestore<'_>, all: &[&InetSkEntry]) -> Result<(), Problem> {
    for image in all {
        let sockets = cx.state::<Sockets>();
        let own = sockets.own.get(&image.id).cloned().unwrap_or_default();
        if own.peer_gone == Some(true) || is_to_be_closed(cx, image) {
            let packets = cx.state::<Sockets>().packets.remove(&image.id).unwrap_or_default();
            let address = || of_image(image, &image.src_addr, image.src_port, inet::scope(image));
            let about = || {
                let name = address().map_or_else(|| "unbound".to_owned(), |address| address.to_string());
                Object::Named { kind: "tcp", name }
            };
            let made = tcp_closed::make(image, address(), &own, &packets).about(about);
            let fd = made.while_trying_to("make its connection, which is over")?;
            cx.state::<Made>().sockets.insert(image.id, fd);
        }
    }
    Ok(())
}

/// Connections that the user wants closed.
fn is_to_be_closed(cx: &FilesRestore<'_>, image: &InetSkEntry) -> bool {
    let connected = State::from_number(image.state).is_some_and(State::is_connected);
    connected && cx.options.connections == Connections::Closed
}

fn make_connections(cx: &mut FilesRestore<'_>, all: &[&InetSkEntry]) -> Result<(), Problem> {
    let images: Vec<&InetSkEntry> = all.iter().copied().filter(|image| is_kept(cx, image)).collect();
    let all = cx.images;
    let made = side_by_side::map(&images, |image| make_connection(all, image));
    let mut connections = Vec::new();
    for (image, made) in images.iter().zip(made) {
        let (saved, fd, restored) = made?;
        cx.state::<Made>().silent.push(restored);
        connections.push((image.id, fd, saved));
    }
    // Only now does every packet of one find the other.
    for (id, fd, saved) in connections {
        saved.reach_state(fd.as_fd()).about(|| name(&saved)).while_trying_to("close its directions again")?;
        cx.state::<Made>().sockets.insert(id, fd);
    }
    Ok(())
}

fn name(saved: &Connection) -> Object {
    Object::Named { kind: "tcp", name: format!("{} -> {}", saved.local, saved.remote) }
}

/// Makes a connection, which is silent for now.
fn make_connection(images: &Images, image: &InetSkEntry) -> Result<(Connection, OwnedFd, Restored), Problem> {
    let saved = load(images, image)?;
    let make = || -> Result<(OwnedFd, Restored), Problem> {
        let fd = socket::create(image.family as i32, image.r#type as i32, image.proto as i32)?;
        inet::before_binding(fd.as_fd(), image)?;
        let restored = saved.restore(fd.as_fd(), image.opts.reuseaddr.unwrap_or(false).into())?;
        Ok((fd, restored))
    };
    let (fd, restored) = make().about(|| name(&saved)).while_trying_to("make its connection again")?;
    // What was in its queues is there already; how much was written is needed where a direction is to be closed.
    let written = if saved.state == State::Established { Vec::new() } else { saved.written };
    Ok((Connection { received: Vec::new(), written, ..saved }, fd, restored))
}

/// Holds back packets of all connections of a namespace that was just made, in which we are: there was no lock so far.
pub fn hold_in_new_space(images: &Images, id: u32) -> Result<(), Problem> {
    let (lock, files) = (&proto::catalogue::STASIS_NETWORK, &proto::catalogue::FILES);
    if !images.has(lock, 0) || !images.has(files, 0) {
        return Ok(());
    }
    let lock: StasisNetworkEntry = images.read_single(lock, 0)?;
    let files: Vec<FileEntry> = images.read(files, 0)?;
    let sockets = files.iter().filter_map(|file| file.isk.as_deref());
    let here = sockets.filter(|image| is_tcp(image) && image.ns_id == Some(id));
    let connected = here.filter(|image| State::from_number(image.state).is_some_and(State::is_connected));
    let all: Vec<Ends> = connected.filter_map(ends).collect();
    if all.is_empty() || !lock.table.starts_with(net_lock::PREFIX) {
        return Ok(());
    }
    let made = Lasting::new(Method::Nftables, &lock.table, &Note::new(images.dir()), &all);
    made.and_then(|lock| lock.persist()).while_trying_to(HOLD)
}

/// A connection that was made, for the task that has it.
pub(super) fn take(cx: &mut FilesRestore<'_>, id: u32) -> Option<OwnedFd> {
    cx.state::<Made>().sockets.remove(&id)
}

/// Lets all connections talk.
pub(super) fn release(cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
    let image = &proto::catalogue::STASIS_NETWORK;
    if cx.images.has(image, 0) {
        let entry: StasisNetworkEntry = cx.images.read_single(image, 0)?;
        if entry.table.starts_with(net_lock::PREFIX) {
            let method = entry.method.as_deref().and_then(Method::from_name).unwrap_or(Method::Nftables);
            net_lock::remove(method, &entry.table)
                .while_trying_to("let packets of its connections pass again")?;
            if method == Method::Iptables {
                // That of a dump that was killed at its end; a table of nftables went with it.
                net_lock::remove(method, &name_of_held(&entry.table))
                    .while_trying_to("let packets of its connections pass again")?;
            }
            // Those in namespaces that were made for the tree are by nftables.
            for space in cx.options.inside.spaces.numbers() {
                let _there = net_spaces::enter(&cx.options.inside.spaces, Some(space))?;
                net_lock::remove(Method::Nftables, &entry.table)
                    .while_trying_to("let packets of its connections pass again")?;
            }
        }
    }
    for connection in std::mem::take(&mut cx.state::<Made>().silent) {
        connection.release().while_trying_to("let its connections go on")?;
    }
    Ok(())
}
