//! Unix sockets: streams, datagrams and sequenced packets; pairs, names in file systems and abstract ones.
//!
//! Which socket is the other end of which, and who waits to be accepted, sock_diag(7) tells by inode numbers. What waits to
//! be read is peeked at (`socket_queue.rs`); descriptors in flight are dumped like those in a table. The other half, how all
//! sockets of a tree are made again, is in `unix_world.rs`: most calls concern two of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use proto::messages::{
    FdTypes, FileEntry, FilePermsEntry, StasisCredentials, StasisSocketEntry, UnixSkEntry,
};

use super::sock_diag::{self, UnixFacts};
use super::socket_queue::{self, Saved, Sockets};
use super::{FdFacts, FileKind, FilesDump, FilesRestore, InTask, mounted, policy, unix_world};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::options::Unsupported;
use crate::procfs::id_map;
use crate::procfs::link::{self, Link};
use crate::sys::socket;

/// Unix sockets.
#[derive(Debug)]
pub struct Unix;

/// Why a unix socket cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum UnixRefusal {
    /// The other end is not in the tree.
    #[error("the other end of the unix socket (inode {ino}) is held by {owner}, outside of the tree")]
    PeerOutside {
        /// Inode number of the other end.
        ino: u32,
        /// Who holds it.
        owner: String,
    },
    /// Its connection waits at a listener that is not in the tree.
    #[error("the unix socket waits to be accepted by {0}, outside of the tree")]
    WaitsOutside(String),
    /// Somebody waits to be accepted, and is not in the tree.
    #[error("a connection of {0}, outside of the tree, waits to be accepted")]
    ClientOutside(String),
    /// A connection was given up before it was accepted.
    #[error("a connection that was closed again waits to be accepted, and what it holds cannot be seen")]
    ClosedClient,
    /// Data on a connection not yet accepted.
    #[error("data was sent over a connection that waits to be accepted, and cannot be seen before that")]
    DataBeforeAccept,
    /// The kernel does not know it.
    #[error("the kernel does not tell about the unix socket")]
    Unknown,
    /// Its name leads to its file from no directory that we know.
    #[error("its name {name} does not lead to its file {}", String::from_utf8_lossy(path).escape_debug())]
    Astray {
        /// The name.
        name: String,
        /// Where its file is.
        path: Vec<u8>,
    },
}

impl Explain for UnixRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::PeerOutside { ino, .. } => Some(format!(
                "dump the common parent, or pass --ext-unix-sk={ino} to connect to its name again, or --external unix[{ino}] \
                 and --inherit-fd at restore, or have it find the connection closed with --on-unsupported unix=close"
            )),
            Self::WaitsOutside(_) | Self::ClientOutside(_) => Some(
                "dump the common parent, or close the connection first, or lose it with --on-unsupported unix=close"
                    .into(),
            ),
            Self::ClosedClient | Self::DataBeforeAccept => {
                Some("try again when the program has accepted it".into())
            }
            Self::Unknown | Self::Astray { .. } => None,
        }
    }
}

/// All unix sockets of the machine, asked for once.
#[derive(Debug, Default)]
struct Known(Option<HashMap<u32, UnixFacts>>);

/// A socket of the tree.
#[derive(Debug)]
struct Seen {
    id: u32,
    object: Object,
    facts: UnixFacts,
    /// A duplicate, while its queue is still to be looked at.
    to_peek: Option<OwnedFd>,
    /// Memory of what it sent and nobody read.
    unsent: i32,
    /// Address of its peer, in the kernel's layout.
    peer_name: Vec<u8>,
}

/// Sockets of the tree, by inode number, and the descriptors that were in flight.
#[derive(Debug, Default)]
struct Dumped {
    sockets: BTreeMap<u32, Seen>,
    /// Peers outside of the tree that have an entry.
    external: BTreeSet<u32>,
    /// What was in flight: held, because files are compared with it later.
    in_flight: Vec<OwnedFd>,
}

pub(super) const ESTABLISHED: u32 = 1;
pub(super) const LISTEN: u32 = 10;
/// `unix_sk_entry.uflags`: it belongs to somebody outside of the tree, and is there for its name.
pub(super) const EXTERNAL: u32 = 1;

impl FileKind for Unix {
    const NAME: &'static str = "unix";
    const NOT_SAVED: &'static [&'static str] = &[
        "pid of the peer's credentials where that process is not in the tree, and its supplementary groups",
        "inode numbers of sockets and of their files",
        "a flock(2) lock on the socket itself, which keeps nobody from taking one",
        "time stamps and security labels of what waits to be read",
        "an empty datagram at the head of a queue that somebody peeked at",
    ];
    const TYPE: FdTypes = FdTypes::Unixsk;
    type Image = UnixSkEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.socket.is_some_and(|s| s.domain == libc::AF_UNIX)
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<UnixSkEntry>> {
        &mut entry.usk
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<UnixSkEntry, Problem> {
        let ino = fd.stat.st_ino as u32;
        let facts = facts(cx, ino)?;
        let (socket, answers) = (fd.dup()?, fd.answers()?);
        let options = answers.options()?;
        let mut entry = UnixSkEntry {
            id,
            ino,
            r#type: facts.kind.into(),
            state: facts.state.into(),
            flags: fd.flags() as u32,
            backlog: facts.write_queue,
            peer: facts.peer.unwrap_or(0),
            fown: fd.owner().while_trying_to("read the owner of its signals")?,
            opts: options.plain,
            shutdown: Some(facts.shutdown).filter(|bits| *bits != 0).map(i32::from),
            ns_id: Some(2),
            ..UnixSkEntry::default()
        };
        let mut own = StasisSocketEntry { options: options.more, ..StasisSocketEntry::default() };
        entry.name = answers.own.as_ref().map_err(|e| *e)?.get(2..).unwrap_or_default().to_vec();
        name(cx, fd.pid, socket, &mut entry, &mut own)?;
        let mut peer_name = Vec::new();
        if facts.peer.is_some() {
            peer_name = answers.peer.clone().unwrap_or_default();
        }
        let is_gone = facts.peer == Some(0);
        own.peer_gone = is_gone.then_some(true);
        own.peer_name = Some(peer_name.clone()).filter(|name| is_gone && name.len() > 2);
        let is_stream = i32::from(facts.kind) != libc::SOCK_DGRAM;
        own.reset = (is_gone && is_stream && socket_queue::has_error(socket)?).then_some(true);
        let peer = answers.credentials?;
        let ids = &cx.options.inside.ids;
        let (uid, gid) = (id_map::inside(&ids.uids, peer.uid), id_map::inside(&ids.gids, peer.gid));
        own.peer_credentials = (peer.pid != 0).then_some(StasisCredentials { pid: peer.pid, uid, gid });
        if own != StasisSocketEntry::default() {
            cx.state::<Sockets>().own.insert(id, own);
        }
        // A queue of datagrams may begin with an empty one, which does not count.
        let may_hold = entry.state != LISTEN && (facts.read_queue != 0 || !is_stream);
        let to_peek =
            if may_hold { Some(socket.try_clone_to_owned().map_err(SysError::io("dup"))?) } else { None };
        let unsent = if is_gone && is_stream { socket::unsent(socket)? } else { 0 };
        let seen = Seen { id, object: fd.object(), facts, to_peek, unsent, peer_name };
        cx.state::<Dumped>().sockets.insert(ino, seen);
        Ok(entry)
    }

    fn explore(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        // Sockets in flight have queues, too.
        loop {
            let mut sockets = cx.state::<Dumped>().sockets.values_mut();
            let Some((socket, seen)) = sockets.find_map(|s| Some((s.to_peek.take()?, s))) else {
                break;
            };
            let (id, facts, object) = (seen.id, seen.facts.clone(), seen.object.clone());
            if let Err(problem) = look_into(cx, id, &facts, socket.as_fd()) {
                problems.push(problem.object(object));
            }
        }
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        let sockets = std::mem::take(&mut cx.state::<Dumped>().sockets);
        let known = cx.state::<Known>().0.take().unwrap_or_default();
        for (ino, seen) in &sockets {
            if let Err(problem) = tie(cx, *ino, seen, &sockets, &known) {
                problems.push(problem.object(seen.object.clone()));
            }
        }
    }

    fn check(cx: &FilesRestore<'_>, image: &UnixSkEntry) -> Result<(), Problem> {
        unix_world::check(cx, image)
    }

    fn prepare(cx: &mut FilesRestore<'_>, tasks: &mut dyn InTask) -> Result<(), Problem> {
        unix_world::make(cx, tasks)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &UnixSkEntry) -> Result<OwnedFd, Problem> {
        unix_world::take(cx, image.id)
    }
}

/// What the kernel tells about one socket.
fn facts(cx: &mut FilesDump<'_>, ino: u32) -> Result<UnixFacts, Problem> {
    let known = &mut cx.state::<Known>().0;
    let all = known.get_or_insert_default();
    if !all.contains_key(&ino) {
        // Nobody was asked yet, or it is of another network namespace than those before.
        all.extend(sock_diag::unix_sockets().while_trying_to("ask the kernel about unix sockets")?);
    }
    all.get(&ino).cloned().ok_or_else(|| Problem::new(UnixRefusal::Unknown))
}

/// Copies what waits in a socket, and dumps the descriptors in flight.
fn look_into(
    cx: &mut FilesDump<'_>,
    id: u32,
    facts: &UnixFacts,
    socket: BorrowedFd<'_>,
) -> Result<(), Problem> {
    if cx.looks_only {
        return Ok(());
    }
    let kind = i32::from(facts.kind);
    socket_queue::check(socket, kind)?;
    let mut saved = Vec::new();
    for mut packet in socket_queue::peek(socket, kind, facts.read_queue.into())? {
        let mut rights = Vec::new();
        for fd in std::mem::take(&mut packet.rights) {
            rights.push(cx.dump_own(&fd).map_err(|p| p.step("dump a descriptor that is in flight to it"))?);
            cx.state::<Dumped>().in_flight.push(fd);
        }
        saved.push(Saved::of(packet, rights));
    }
    if !saved.is_empty() {
        cx.state::<Sockets>().packets.insert(id, saved);
    }
    Ok(())
}

/// Finds the other end of a socket in the tree, or refuses.
fn tie(
    cx: &mut FilesDump<'_>,
    ino: u32,
    seen: &Seen,
    sockets: &BTreeMap<u32, Seen>,
    known: &HashMap<u32, UnixFacts>,
) -> Result<(), Problem> {
    let refuse = |refusal| Err(Problem::new(refusal));
    if u32::from(seen.facts.state) == LISTEN {
        let mut pending = Vec::new();
        for &client in &seen.facts.pending {
            match sockets.get(&client) {
                _ if client == 0 => return refuse(UnixRefusal::ClosedClient),
                None => {
                    let problem = Problem::new(UnixRefusal::ClientOutside(owner(client)));
                    lose(cx, seen, "a connection that waits at it", Unsupported::Close, problem)?;
                    continue;
                }
                Some(client) if client.unsent > 0 => {
                    return Err(Problem::new(UnixRefusal::DataBeforeAccept).object(client.object.clone()));
                }
                Some(client) => {
                    if let Some(entry) = cx.unix_entry(client.id) {
                        entry.peer = ino;
                    }
                    let own = cx.state::<Sockets>().own.entry(client.id).or_default();
                    (own.peer_gone, own.peer_name) = (None, None);
                }
            }
            pending.push(client);
        }
        if !pending.is_empty() {
            cx.state::<Sockets>().own.entry(seen.id).or_default().pending = pending;
        }
        return Ok(());
    }
    match seen.facts.peer {
        None => Ok(()),
        Some(0) => {
            let waits_at = known.iter().find(|(_, facts)| facts.pending.contains(&ino));
            match waits_at {
                Some((listener, _)) if !sockets.contains_key(listener) => {
                    give_up(cx, seen, *listener, UnixRefusal::WaitsOutside(owner(*listener)))
                }
                _ => Ok(()),
            }
        }
        Some(peer) if sockets.contains_key(&peer) => Ok(()),
        Some(peer) if cx.options.external_unix.allows(ino, peer) => {
            external(cx, seen, peer);
            Ok(())
        }
        Some(peer) => give_up(cx, seen, peer, UnixRefusal::PeerOutside { ino: peer, owner: owner(peer) }),
    }
}

/// Refuses a peer outside of the tree, or does what the user would rather have done about it.
fn give_up(cx: &mut FilesDump<'_>, seen: &Seen, peer: u32, refusal: UnixRefusal) -> Result<(), Problem> {
    let choice = policy::choice(&cx.options.files, Unix::NAME);
    lose(cx, seen, "its connection", choice, Problem::new(refusal))?;
    match choice {
        Unsupported::Reopen => external(cx, seen, peer),
        _ => cut_off(cx, seen),
    }
    Ok(())
}

/// Tells what is lost, if that is what the user chose.
fn lose(
    cx: &mut FilesDump<'_>,
    seen: &Seen,
    what: &str,
    allowed: Unsupported,
    problem: Problem,
) -> Result<(), Problem> {
    let choice = policy::choice(&cx.options.files, Unix::NAME);
    if choice == Unsupported::Refuse || choice != allowed {
        return Err(problem);
    }
    policy::note(cx, format!("{}: {what}", seen.object), Unix::NAME, choice, &problem);
    Ok(())
}

/// The restored socket finds its peer closed.
fn cut_off(cx: &mut FilesDump<'_>, seen: &Seen) {
    if let Some(entry) = cx.unix_entry(seen.id) {
        entry.peer = 0;
    }
    cx.state::<Sockets>().own.entry(seen.id).or_default().peer_gone = Some(true);
}

/// Notes a peer outside of the tree: by its name, or as closed if it has none.
fn external(cx: &mut FilesDump<'_>, seen: &Seen, peer: u32) {
    let name = seen.peer_name.get(2..).unwrap_or_default().to_vec();
    if name.is_empty() {
        log::warn!("{}: its peer has no name, so the restored socket will find it closed", seen.object);
        return cut_off(cx, seen);
    }
    if let Some(entry) = cx.unix_entry(seen.id) {
        entry.peer = peer;
    }
    let own = cx.state::<Sockets>().own.entry(seen.id).or_default();
    (own.peer_gone, own.peer_name, own.reset) = (None, None, None);
    if !cx.state::<Dumped>().external.insert(peer) {
        return;
    }
    let id = cx.new_id();
    let usk = UnixSkEntry {
        id,
        ino: peer,
        r#type: seen.facts.kind.into(),
        state: if i32::from(seen.facts.kind) == libc::SOCK_DGRAM { CLOSE } else { LISTEN },
        uflags: EXTERNAL,
        name,
        ns_id: Some(2),
        ..UnixSkEntry::default()
    };
    cx.push(FileEntry {
        r#type: FdTypes::Unixsk.into(),
        id,
        usk: Some(Box::new(usk)),
        ..FileEntry::default()
    });
}

const CLOSE: u32 = 7;

/// Who has a socket open, for messages.
pub(super) fn owner(ino: u32) -> String {
    let link = format!("socket:[{ino}]");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        super::list(*pid).into_iter().any(|fd| {
            nix::fcntl::readlink(format!("/proc/{pid}/fd/{fd}").as_str()).is_ok_and(|l| l == link.as_str())
        })
    };
    let found = pids.find(has).and_then(crate::tracee::freeze::task_name);
    found.map_or_else(|| "nobody that can be seen".to_owned(), |name| name.to_string())
}

/// Completes a socket's name by what is known of its file.
fn name(
    cx: &mut FilesDump<'_>,
    pid: i32,
    socket: BorrowedFd<'_>,
    entry: &mut UnixSkEntry,
    own: &mut StasisSocketEntry,
) -> Result<(), Problem> {
    if entry.name.first().is_none_or(|first| *first == 0) {
        return Ok(());
    }
    let name = entry.name.split(|byte| *byte == 0).next().unwrap_or_default();
    let file = socket::unix_file(socket).while_trying_to("find the file that it is bound to")?;
    let stat = nix::sys::stat::fstat(&file).map_err(SysError::of("fstat"))?;
    entry.file_perms = Some(FilePermsEntry { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid });
    (own.file_dev, own.file_ino) = (Some(stat.st_dev), Some(stat.st_ino));
    let link = nix::fcntl::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str())
        .map_err(SysError::of("readlink"))?;
    let same = |path: &[u8]| {
        nix::sys::stat::lstat(OsStr::from_bytes(path))
            .is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
    };
    let path = match link::parse(link.as_bytes()) {
        Link::Path(path) if same(path) => path,
        Link::Path(path)
            if stat.st_nlink > 0
                && let Some(mount) = mounted::of_socket(cx, file.as_fd())? =>
        {
            own.mnt_id = Some(mount);
            path
        }
        _ => {
            entry.deleted = Some(true);
            return Ok(());
        }
    };
    let astray = || {
        let name = String::from_utf8_lossy(name).into_owned();
        Problem::new(UnixRefusal::Astray { name, path: path.to_vec() })
    };
    if name.starts_with(b"/") {
        // The program may have another root than we.
        if !same(name) {
            own.root = Some(path.strip_suffix(name).ok_or_else(astray)?.to_vec());
        }
        return Ok(());
    }
    let cwd = nix::fcntl::readlink(format!("/proc/{pid}/cwd").as_str()).unwrap_or_default();
    let from_cwd = [cwd.as_bytes(), b"/", name].concat();
    let plain = name.strip_prefix(b"./").unwrap_or(name);
    let dir = match path.strip_suffix(plain).and_then(|dir| dir.strip_suffix(b"/")) {
        Some(dir) => dir,
        None if same(&from_cwd) => cwd.as_bytes(),
        None => return Err(astray()),
    };
    let dir = if dir.is_empty() { b"/" } else { dir };
    entry.name_dir = Some(String::from_utf8_lossy(dir).into_owned());
    Ok(())
}
