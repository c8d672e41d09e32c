//! Holding packets of connections back while nobody is there to take them.
//!
//! - [`Lock::hold`]: while a dump looks at connections, until the lock is dropped.
//! - [`Lasting`]: from the end of a dump to the end of a restore, under a name that the images know.
//! - [`remove`]: at the end of a restore.
//! - [`sweep`]: finds locks that nobody will remove: the dump that made them was killed, or the images they wait with are gone.
//!   Each lock carries a note by which that can be told.
//!
//! Packets that we make ourselves carry a mark and pass ([`crate::tcp_repair::packet::MARK`]).

pub mod iptables;
pub mod nftables;

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use proto::catalogue::{INVENTORY, STASIS_NETWORK};
use proto::messages::StasisNetworkEntry;

use crate::error::{Class, Explain, SysError};
use crate::image::Images;
use crate::procfs::{self, stat::State};

/// What names of locks of ours begin with.
pub const PREFIX: &str = "stasis-";
/// Bytes of a note: `NFT_USERDATA_MAXLEN` of `include/uapi/linux/netfilter/nf_tables.h`, and the length of a comment of iptables.
const LONGEST_NOTE: usize = 250;

/// Whether a table of this name is a lock of ours.
pub fn is_ours(table: &str) -> bool {
    table.starts_with(PREFIX)
}

/// Two ends of a connection.
pub type Ends = (SocketAddr, SocketAddr);

/// Who holds the packets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A table of nftables, over netlink.
    Nftables,
    /// Chains of iptables, by its programs.
    Iptables,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// The word in options and images.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// The reverse of [`Method::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// Why packets cannot be held back, or let pass.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] SysError),
    /// A program is missing, or cannot be run.
    #[error("{0} cannot be run: {1}")]
    NoProgram(&'static str, String),
    /// A program refused.
    #[error("{0} said: {1}")]
    Program(&'static str, String),
}

impl Explain for LockError {
    fn class(&self) -> Class {
        match self {
            Self::Kernel(e) => e.class(),
            Self::NoProgram(..) => Class::Environment,
            Self::Program(..) => Class::Failed,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Kernel(e) => e.help(),
            Self::NoProgram(..) => Some("install iptables, or pass --network-lock nftables".into()),
            Self::Program(..) => None,
        }
    }
}

/// A lock that ends when this is dropped.
#[derive(Debug)]
pub enum Lock {
    /// Closing the socket is enough, and the kernel does that for whoever dies.
    Nftables(nftables::Held),
    /// Taken away by hand.
    Iptables(iptables::Held),
}

impl Lock {
    /// Holds packets of these connections back.
    pub fn hold(method: Method, name: &str, note: &Note, connections: &[Ends]) -> Result<Self, LockError> {
        Ok(match method {
            Method::Nftables => Self::Nftables(nftables::Held::new(name, &note.to_bytes(), connections)?),
            Method::Iptables => Self::Iptables(iptables::Held::new(name, &note.to_bytes(), connections)?),
        })
    }
}

/// A lock that will last until [`remove`], and is not there yet.
#[derive(Debug)]
pub enum Lasting {
    /// Whoever guards the end of a tree can make it as well.
    Nftables(nftables::Prepared),
    /// By programs, which whoever guards the end cannot call: it makes one by nftables instead, where the kernel has that.
    Iptables {
        /// Its name.
        name: String,
        /// Its note.
        note: Vec<u8>,
        /// What it holds back.
        connections: Vec<Ends>,
        /// The other lock.
        instead: Option<nftables::Prepared>,
    },
}

impl Lasting {
    /// Holds packets of these connections back, later.
    pub fn new(method: Method, name: &str, note: &Note, connections: &[Ends]) -> Result<Self, LockError> {
        let note = note.to_bytes();
        Ok(match method {
            Method::Nftables => Self::Nftables(nftables::Prepared::new(name, &note, connections)?),
            Method::Iptables => Self::Iptables {
                name: name.to_owned(),
                connections: connections.to_vec(),
                instead: nftables::Prepared::new(name, &note, connections).ok(),
                note,
            },
        })
    }

    /// From now on.
    pub fn persist(&self) -> Result<(), LockError> {
        match self {
            Self::Nftables(prepared) => Ok(prepared.persist()?),
            Self::Iptables { name, note, connections, .. } => iptables::persist(name, note, connections),
        }
    }

    /// What can be made by one write.
    pub fn prepared(&self) -> Option<&nftables::Prepared> {
        match self {
            Self::Nftables(prepared) => Some(prepared),
            Self::Iptables { instead, .. } => instead.as_ref(),
        }
    }
}

/// Lets packets pass again; no lock of that name is as good.
pub fn remove(method: Method, name: &str) -> Result<(), LockError> {
    match method {
        Method::Nftables => Ok(nftables::remove(name)?),
        Method::Iptables => {
            // What a guardian may have made in its place; without nftables there is none.
            let _none_there = nftables::remove(name);
            iptables::remove(name)
        }
    }
}

/// A name for a lock that no other has: at most 28 characters, for iptables.
pub fn new_name(tree: i32) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let moment = since.map_or(0, |since| since.as_nanos() as u64 & 0xffff_ffff_ffff);
    format!("{PREFIX}{tree}-{moment:x}")
}

/// What a lock says about itself: the process that made it, and the images that it waits with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Pid and start time of the process that made it.
    maker: (i32, u64),
    /// Where the images are; none where the path is too long for a note.
    images: Option<PathBuf>,
}

impl Note {
    /// A note by us.
    pub fn new(images: &Path) -> Self {
        let pid = std::process::id() as i32;
        let images = std::path::absolute(images).ok();
        Self { maker: (pid, start_time(pid).unwrap_or(0)), images }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} ", self.maker.0, self.maker.1).into_bytes();
        let path = self.images.as_ref().map_or(&b""[..], |path| path.as_os_str().as_bytes());
        // A comment of iptables is quoted, and a line.
        if bytes.len() + path.len() <= LONGEST_NOTE && !path.iter().any(|byte| b"\"\\\n".contains(byte)) {
            bytes.extend(path);
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.splitn(3, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
        let maker = (i32::try_from(number()?).ok()?, number()?);
        let path = words.next().filter(|path| !path.is_empty());
        let images = path.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())));
        Some(Self { maker, images })
    }

    /// What becomes of a lock with this note.
    fn fate(&self, name: &str) -> Fate {
        if start_time(self.maker.0) == Some(self.maker.1) {
            return Fate::InUse(self.maker.0);
        }
        let Some(dir) = &self.images else { return Fate::Unknown };
        if waits(dir, name) { Fate::Waits(dir.clone()) } else { Fate::Stale(dir.clone()) }
    }
}

fn start_time(pid: i32) -> Option<u64> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // One that has ended, and that nobody has asked about yet, works no more.
    let stat =
        procfs::stat::parse(&text).ok().filter(|stat| !matches!(stat.state, State::Zombie | State::Dead))?;
    Some(stat.starttime)
}

/// Whether a complete set of images is there, and knows this lock.
fn waits(dir: &Path, name: &str) -> bool {
    let images = Images::open(dir);
    images.has(&INVENTORY, 0)
        && images.read_single(&STASIS_NETWORK, 0).is_ok_and(|entry: StasisNetworkEntry| entry.table == name)
}

/// What becomes of a lock that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The process that made it still works.
    InUse(i32),
    /// It waits for a restore from this directory.
    Waits(PathBuf),
    /// Nobody will remove it: there are no such images.
    Stale(PathBuf),
    /// It does not say.
    Unknown,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(pid) => write!(f, "process {pid} is using it"),
            Self::Waits(dir) => write!(f, "it waits for a restore from {}", dir.display()),
            Self::Stale(dir) => write!(f, "{} holds no images of it any more", dir.display()),
            Self::Unknown => f.write_str("it does not say whose it is"),
        }
    }
}

/// Which locks to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Those that nobody else will remove.
    Stale,
    /// Those that wait for a restore, too.
    All,
}

/// A lock that was found, and whether it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub fate: Fate,
    /// Whether it is gone now.
    pub removed: bool,
}

/// Finds our locks, and removes some of them. Asking for those by iptables takes a while, since its programs are called.
pub fn sweep(which: Sweep, methods: &[Method]) -> Result<Vec<Found>, LockError> {
    let mut found = Vec::new();
    let mut locks = Vec::new();
    for method in methods {
        let of_method = match method {
            Method::Nftables => nftables::list().unwrap_or_default(),
            Method::Iptables => iptables::list()?,
        };
        locks.extend(of_method.into_iter().map(|lock| (*method, lock)));
    }
    for (method, (name, note)) in locks {
        let fate = Note::parse(&note).map_or(Fate::Unknown, |note| note.fate(&name));
        let wanted = match fate {
            Fate::Stale(_) => true,
            Fate::InUse(_) => false,
            Fate::Waits(_) | Fate::Unknown => which == Sweep::All,
        };
        let removed = wanted
            && match remove(method, &name) {
                // It belongs to the socket of a process, and goes with it.
                Err(LockError::Kernel(SysError { errno: Errno::EPERM, .. })) => false,
                done => done.map(|()| true)?,
            };
        found.push(Found { name, fate, removed });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive() {
        let note = Note::new(Path::new("/images of/it"));
        assert_eq!(Note::parse(&note.to_bytes()), Some(note.clone()));
        assert_eq!(note.fate("stasis-1"), Fate::InUse(std::process::id() as i32));
        let long = Note { images: Some("/".repeat(300).into()), ..note };
        assert_eq!(Note::parse(&long.to_bytes()).unwrap().images, None);
        assert_eq!((Note::parse(b""), Note::parse(b"x y /z")), (None, None));
    }

    #[test]
    fn a_lock_without_images_is_removed_by_the_next_sweep() {
        let name = new_name(1);
        let gone = Note { maker: (std::process::id() as i32, 1), images: Some("/nowhere/at/all".into()) };
        if Lasting::new(Method::Nftables, &name, &gone, &[]).and_then(|lock| lock.persist()).is_err() {
            return;
        }
        let found = sweep(Sweep::Stale, &Method::ALL).unwrap();
        let ours = found.into_iter().find(|found| found.name == name);
        // Somebody else's sweep may have been faster.
        assert!(ours.is_none_or(|ours| ours.removed && ours.fate == Fate::Stale("/nowhere/at/all".into())));
        assert!(sweep(Sweep::Stale, &Method::ALL).unwrap().into_iter().all(|found| found.name != name));
    }

    #[test]
    fn a_lock_in_use_stays() {
        let name = new_name(2);
        let Ok(lock) = Lock::hold(Method::Nftables, &name, &Note::new(Path::new("/nowhere")), &[]) else {
            return;
        };
        let ours = |found: Vec<Found>| found.into_iter().find(|found| found.name == name);
        // Not all: others on this machine have locks, too.
        assert!(ours(sweep(Sweep::Stale, &Method::ALL).unwrap()).is_some_and(|ours| !ours.removed));
        drop(lock);
        assert_eq!(ours(sweep(Sweep::Stale, &Method::ALL).unwrap()), None);
    }
}
