//! The network namespaces of a tree beyond that of its root: those that tasks went into, and those that sockets, descriptors and
//! mounts are of, be anybody in there or not.
//!
//! What is asked or made about a socket is asked or made in its namespace: we go there for the moment, and come back.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use proto::messages::FileEntry;

use crate::dump::inspect::read_proc;
use crate::dump::namespace_links::NamespaceLinks;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::kinds::files::{ErasedFileKind, FdFacts, FilesDump, FilesRestore, kind_of};
use crate::kinds::namespaces::{self, net::link_header};
use crate::made_files::MadeFiles;
use crate::netlink::{CHANGE, Netlink};
use crate::options::Inside;
use crate::procfs::link::NamespaceType;
use crate::procfs::mountinfo;
use crate::sys::socket;
use crate::visit::{self, Visit};

/// Why something in such a namespace cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum NetSpaceRefusal {
    /// A namespace outside of the tree.
    #[error("it is of the network namespace that stasis was called in, and the tree has another one")]
    Outside,
    /// Another than the root's, which has none of its own.
    #[error("it is of another network namespace than the root of the tree, which has none of its own")]
    Nested,
    /// A thread that went elsewhere alone.
    #[error("a thread of it is in another network namespace than its process, which is not supported yet")]
    Thread,
}

impl Explain for NetSpaceRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }
}

/// A network namespace.
#[derive(Debug)]
pub struct NetSpace {
    ino: u64,
    /// The id under which images know it.
    pub id: u32,
    /// What leads to it.
    pub file: File,
}

/// Those of a tree that is being dumped, that of its root first.
#[derive(Debug, Default)]
pub struct NetSpaces(pub Vec<NetSpace>);

/// Ids of the namespaces of tasks, by what the links in `/proc` say.
#[derive(Debug, Default)]
struct OfTasks(HashMap<PathBuf, u32>);

/// The namespace that we are in.
pub fn here() -> Result<File, SysError> {
    visit::here(NamespaceType::Net)
}

fn ino_of(file: &File) -> Result<u64, SysError> {
    Ok(file.metadata().map_err(SysError::io("fstat"))?.ino())
}

impl NetSpaces {
    /// The id of a namespace, which is new if it was not met before.
    pub fn id(&mut self, file: File, inside: &Inside) -> Result<u32, Problem> {
        let ids = namespaces::ids_of_tree(&inside.types);
        if self.0.is_empty() {
            let file = here()?;
            let id = namespaces::id(&ids, NamespaceType::Net).unwrap_or_default();
            self.0.push(NetSpace { ino: ino_of(&file)?, id, file });
        }
        let ino = ino_of(&file)?;
        if let Some(known) = self.0.iter().find(|space| space.ino == ino) {
            return Ok(known.id);
        }
        if !inside.has(NamespaceType::Net) {
            return Err(Problem::new(NetSpaceRefusal::Nested));
        }
        if inside.outer_net == Some(ino) {
            return Err(Problem::new(NetSpaceRefusal::Outside));
        }
        // Behind those of all namespaces that are the root's.
        let first = NamespaceType::ALL.into_iter().filter_map(|kind| namespaces::id(&ids, kind)).max();
        let id = first.unwrap_or_default() + self.0.len() as u32;
        self.0.push(NetSpace { ino, id, file });
        Ok(id)
    }

    /// What leads to the namespace with this id, if it is another one than that of the root.
    pub fn beside_home(&self, id: u32) -> Option<&File> {
        self.0.iter().skip(1).find(|space| space.id == id).map(|space| &space.file)
    }
}

/// The number in what mountinfo calls the root of a mount that keeps a network namespace (`ns_dname` of fs/nsfs.c).
pub fn mounted_ino(root: &str) -> Option<u64> {
    root.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// The id of the namespace with this inode number, if it is one of these.
pub fn id_of_ino(spaces: &[NetSpace], ino: u64) -> Option<u32> {
    spaces.iter().find(|space| space.ino == ino).map(|space| space.id)
}

/// Notes the namespaces that something mounted keeps, as those that ip-netns(8) names. Those that are not the tree's, or not to be
/// seen, are refused as mounts.
pub fn find_mounted(pids: &[i32], files: &mut FilesDump<'_>) -> Result<(), Problem> {
    let inside = &files.options.inside;
    if !inside.has(NamespaceType::Net) || !inside.has(NamespaceType::Mnt) {
        return Ok(());
    }
    let mut seen = Vec::new();
    for pid in pids {
        // A zombie has none.
        let Ok(link) = std::fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if seen.contains(&link) {
            continue;
        }
        seen.push(link);
        for mount in read_proc(format!("/proc/{pid}/mountinfo"), mountinfo::parse)? {
            let root = String::from_utf8_lossy(&mount.root);
            let Some(ino) = mounted_ino(&root).filter(|_| mount.fstype == b"nsfs") else { continue };
            let place = mount.mountpoint.strip_prefix(b"/").unwrap_or(&mount.mountpoint);
            let path = Path::new("/proc").join(pid.to_string()).join("root").join(OsStr::from_bytes(place));
            let Some(file) = File::open(path).ok().filter(|file| ino_of(file).is_ok_and(|is| is == ino))
            else {
                continue;
            };
            if let Err(problem) = files.state::<NetSpaces>().id(file, inside) {
                log::debug!("the namespace at {}: {}", mount.mountpoint.escape_ascii(), problem.cause);
            }
        }
    }
    Ok(())
}

/// The id of the namespace that a task is in.
pub fn id_of_task(cx: &mut FilesDump<'_>, pid: i32, links: &NamespaceLinks) -> Result<u32, Problem> {
    if links.has_strayed_thread(NamespaceType::Net) {
        return Err(Problem::new(NetSpaceRefusal::Thread));
    }
    let link = links.of(NamespaceType::Net).map(Path::to_owned);
    if let Some(id) = link.as_ref().and_then(|link| cx.state::<OfTasks>().0.get(link)) {
        return Ok(*id);
    }
    let file = visit::of(pid, NamespaceType::Net)?;
    let inside = &cx.options.inside;
    let id = cx.state::<NetSpaces>().id(file, inside)?;
    cx.state::<OfTasks>().0.extend(link.map(|link| (link, id)));
    Ok(id)
}

/// The id of the namespace that a descriptor is.
pub fn id_of_descriptor(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>) -> Result<u32, Problem> {
    let file = File::from(fd.dup()?.try_clone_to_owned().map_err(SysError::io("dup"))?);
    let inside = &cx.options.inside;
    cx.state::<NetSpaces>().id(file, inside)
}

/// Goes into a namespace for the while.
pub fn visit(space: impl AsFd) -> Result<Visit, SysError> {
    Visit::pay(space, NamespaceType::Net)
}

/// Sets all devices of the network namespace that we are in down, for it is about to end: it ends step by step, rules that hold
/// packets back before devices (`cleanup_net` of net/core/net_namespace.c), so that for some milliseconds a packet would be answered
/// as one for nobody.
pub fn cut_off() -> Result<(), Problem> {
    const STEP: &str = "cut its network namespace off";
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE).while_trying_to(STEP)?;
    let devices =
        nix::net::if_::if_nameindex().map_err(SysError::of("if_nameindex")).while_trying_to(STEP)?;
    for device in &devices {
        let payload = link_header(device.index(), 0, libc::IFF_UP as u32);
        let down = netlink.request("RTM_NEWLINK", libc::RTM_NEWLINK, CHANGE, &payload);
        down.about(|| Object::Named { kind: "device", name: device.name().to_string_lossy().into_owned() })
            .while_trying_to(STEP)?;
    }
    Ok(())
}

/// Describes a file; a socket in its namespace, whose id its entry gets.
pub fn dump_file(
    cx: &mut FilesDump<'_>,
    kind: &'static dyn ErasedFileKind,
    fd: &FdFacts<'_>,
    id: u32,
) -> Result<FileEntry, Problem> {
    if fd.socket.is_none() || !cx.options.inside.has(NamespaceType::Net) {
        return kind.dump(cx, fd, id);
    }
    let space = socket::network_namespace(fd.dup()?).while_trying_to("find its network namespace")?;
    let space = File::from(space);
    let own = space.try_clone().map_err(SysError::io("dup"))?;
    let inside = &cx.options.inside;
    let spaces = cx.state::<NetSpaces>();
    let ns_id = spaces.id(own, inside)?;
    let is_home = spaces.0.first().is_some_and(|home| home.id == ns_id);
    let there = if is_home { None } else { Some(visit(&space)?) };
    let mut entry = kind.dump(cx, fd, id)?;
    drop(there);
    if let Some(place) = ns_id_mut(&mut entry) {
        *place = Some(ns_id);
    }
    Ok(entry)
}

fn ns_id(entry: &FileEntry) -> Option<u32> {
    match entry {
        FileEntry { isk: Some(socket), .. } => socket.ns_id,
        FileEntry { usk: Some(socket), .. } => socket.ns_id,
        FileEntry { nlsk: Some(socket), .. } => socket.ns_id,
        FileEntry { psk: Some(socket), .. } => socket.ns_id,
        _ => None,
    }
}

fn ns_id_mut(entry: &mut FileEntry) -> Option<&mut Option<u32>> {
    match entry {
        FileEntry { isk: Some(socket), .. } => Some(&mut socket.ns_id),
        FileEntry { usk: Some(socket), .. } => Some(&mut socket.ns_id),
        FileEntry { nlsk: Some(socket), .. } => Some(&mut socket.ns_id),
        FileEntry { psk: Some(socket), .. } => Some(&mut socket.ns_id),
        _ => None,
    }
}

/// Goes into the namespace with this id for the while, unless it is that of the root.
pub fn enter(spaces: &MadeFiles, id: Option<u32>) -> Result<Option<Visit>, SysError> {
    id.and_then(|id| spaces.get(id)).map(visit).transpose()
}

/// Goes into the namespace of a file, if it is a socket of another one than that of the root.
pub fn enter_for(cx: &FilesRestore<'_>, entry: &FileEntry) -> Result<Option<Visit>, Problem> {
    Ok(enter(&cx.options.inside.spaces, ns_id(entry))?)
}

/// Finds what would make a restore of a file fail; of a socket, in its namespace.
pub fn check_file(cx: &FilesRestore<'_>, entry: &FileEntry) -> Result<(), Problem> {
    let _there = enter_for(cx, entry)?;
    kind_of(entry)?.check(cx, entry)
}

/// Makes a file; a socket in its namespace.
pub fn restore_file(cx: &mut FilesRestore<'_>, entry: &FileEntry) -> Result<OwnedFd, Problem> {
    let _there = enter_for(cx, entry)?;
    kind_of(entry)?.restore(cx, entry)
}
