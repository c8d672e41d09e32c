//! Mount namespaces (mount_namespaces(7)): the tree of mounts, and contents of file systems that nobody else keeps.
//!
//! How they are read, kept and built is in `mounts.rs`; what is outside is opened before the tree is born, by the engine, which
//! still sees it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use proto::catalogue::{FILES, IDS, PSTREE, STASIS_SOCKETS};
use proto::messages::{FileEntry, PstreeEntry, StasisSocketEntry, TaskKobjIdsEntry, UnixSkEntry};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::cgroups::MovedRoots;
use crate::error::Problem;
use crate::image::{Images, NewImages};
use crate::mounts::build::{BuildFiles, Wanted};
use crate::mounts::model::Namespace;
use crate::mounts::outside::OutsideMounts;
use crate::mounts::plan::{CgroupRoot, Plan};
use crate::mounts::procfs::{self, Later};
use crate::mounts::refusal::MountRefusal;
use crate::mounts::sockets::WantedSocket;
use crate::mounts::surroundings::Surroundings;
use crate::mounts::write::{self, Member};
use crate::mounts::{build, classify, plan, read};
use crate::options::{DumpOptions, RestoreOptions};
use crate::pid_spaces;
use crate::procfs::link::NamespaceType;
use crate::restore::user_spaces::Owners;
use crate::sys::fcntl::borrow;
use crate::terminals;

/// Mount namespaces.
#[derive(Debug)]
pub struct MntNamespace;

/// A mount namespace of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreesMounts {
    /// Its id in the images.
    pub id: u32,
    /// A task that is in it.
    pub pid: i32,
    /// What the link in `/proc` says.
    pub link: PathBuf,
}

/// What the link of a task's mount namespace says.
fn link(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

/// The mount namespaces of all tasks, that of the root first, whose id is known; others get ids above those of all types.
pub fn of_tasks(options: &DumpOptions, id: u32, pids: &[i32]) -> Vec<TreesMounts> {
    if !options.inside.has(NamespaceType::Mnt) {
        return Vec::new();
    }
    let mut found: Vec<TreesMounts> = Vec::new();
    let mut next = super::FIRST_FREE_ID;
    for pid in std::iter::once(options.tree).chain(pids.iter().copied()) {
        // A zombie is in none.
        let Some(link) = link(pid) else { continue };
        if found.iter().any(|known| known.link == link) {
            continue;
        }
        let id = if found.is_empty() { id } else { next };
        next += u32::from(!found.is_empty());
        found.push(TreesMounts { id, pid, link });
    }
    found
}

/// The mounts of all namespaces, with what comes from outside noted, and what stands in the way.
struct Classified {
    /// Each with a task that is in it.
    namespaces: Vec<(Namespace, i32)>,
    problems: Vec<Problem>,
}

fn classified(cx: NamespaceDump<'_>) -> Result<Classified, Problem> {
    let members = of_tasks(cx.options, cx.id, cx.pids);
    let namespaces = members.iter().map(|member| read::namespace(cx.root, member.pid, member.id));
    let mut namespaces = namespaces.collect::<Result<Vec<_>, _>>()?;
    if procfs::are_several(&namespaces) {
        let inits = pid_spaces::inits(cx.root, cx.pids);
        for (namespace, member) in namespaces.iter_mut().zip(&members) {
            procfs::mark(namespace, (cx.root, member.pid), &inits)?;
        }
    }
    let surroundings = &cx.options.inside.surroundings;
    let mut problems = classify::classify(&mut namespaces, surroundings, &cx.options.mounts);
    problems.extend(procfs::check(&namespaces));
    let pids = members.iter().map(|member| member.pid);
    Ok(Classified { namespaces: namespaces.into_iter().zip(pids).collect(), problems })
}

/// What is built, and what is mounted when the tree has been born.
fn planned(cx: NamespaceRestore<'_>) -> Result<(Plan, Vec<Later>), Vec<Problem>> {
    let one = |problem| vec![problem];
    let (mut namespaces, later) = read_tables(cx.options, cx.images, cx.id).map_err(one)?;
    let mut cgroup_root = CgroupRoot::Namespace;
    if !cx.types.contains(&NamespaceType::Cgroup) {
        cgroup_root = CgroupRoot::Hierarchy;
        let moved = MovedRoots::read(cx.images, &cx.options.cgroups).map_err(one)?;
        let mounts = namespaces.iter_mut().flat_map(|namespace| &mut namespace.mounts);
        for mount in mounts.filter(|mount| mount.is_of_cgroups()) {
            mount.root = moved.of(&mount.fstype, &mount.options, &mount.root);
        }
    }
    let surroundings = Surroundings::read().map_err(one)?;
    let planned = plan::plan(&namespaces, cx.images, &surroundings, &cx.options.mounts, cgroup_root)?;
    Ok((planned, later))
}

/// The tables of all namespaces, and what of them is mounted later.
fn read_tables(
    options: &RestoreOptions,
    images: &Images,
    root: u32,
) -> Result<(Vec<Namespace>, Vec<Later>), Problem> {
    let mut namespaces = plan::read(images, &ids(images, root)?, &options.mounts)?;
    if let Some(problem) = procfs::check(&namespaces).into_iter().next() {
        return Err(problem);
    }
    let later = procfs::take_out(&mut namespaces);
    Ok((namespaces, later))
}

/// Mounts what can be mounted only when the tree has been born.
pub fn mount_later(options: &RestoreOptions, images: &Images, root: u32) -> Result<(), Problem> {
    let inside = &options.inside;
    let found = |all: &[(u32, i32)], id: u32| {
        let fd = all.iter().find(|(known, _)| *known == id).map(|(_, fd)| *fd);
        fd.and_then(borrow)
    };
    if !inside.has(NamespaceType::Mnt) {
        return Ok(());
    }
    for later in read_tables(options, images, root)?.1 {
        let place = later.place();
        let missing = || Problem::new(MountRefusal::NoPlace { place: place.name.clone() });
        let at = found(&inside.covered, place.id).ok_or_else(missing)?;
        let namespace = found(&inside.mounts, later.namespace);
        later.restore(at, namespace)?;
    }
    Ok(())
}

/// Ids of the mount namespaces of all tasks, that of the root first.
fn ids(images: &Images, root: u32) -> Result<Vec<u32>, Problem> {
    let mut ids = vec![root];
    let tasks: Vec<PstreeEntry> = images.read(&PSTREE, 0)?;
    for task in tasks.iter().filter(|task| images.has(&IDS, task.pid.into())) {
        let of_task: TaskKobjIdsEntry = images.read_single(&IDS, task.pid.into())?;
        ids.extend(of_task.mnt_ns_id.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// The first of several problems: all have been told by `check`.
fn first(problems: Vec<Problem>) -> Problem {
    problems.into_iter().next().unwrap_or_else(|| Problem::new(MountRefusal::NoRoot))
}

impl NamespaceKind for MntNamespace {
    const NAME: &'static str = "mnt-namespace";
    const NOT_SAVED: &'static [&'static str] = &[
        "ids of mounts",
        "contents of file systems other than tmpfs and ramfs",
        "mounts that are locked against a user namespace",
        "ids that a mount maps",
        "the terminal behind a mounted slave whose master is outside of the tree: nobody is at its other end",
    ];
    const TYPE: NamespaceType = NamespaceType::Mnt;

    fn look(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        match classified(cx) {
            Ok(classified) => problems.extend(classified.problems),
            Err(problem) => problems.push(problem),
        }
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let classified = classified(cx)?;
        let members = classified.namespaces.iter().map(|(namespace, pid)| Member {
            namespace,
            pid: *pid,
            root: cx.root,
        });
        write::write(&members.collect::<Vec<_>>(), &cx.options.mounts, images)
    }

    fn check(cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>) {
        if let Err(found) = planned(cx).and_then(|(plan, _)| OutsideMounts::open(&plan)) {
            problems.extend(found);
        }
    }

    fn before_birth(cx: NamespaceRestore<'_>) -> Result<Vec<OwnedFd>, Problem> {
        let outside = planned(cx).and_then(|(plan, _)| OutsideMounts::open(&plan));
        outside.map(OutsideMounts::into_fds).map_err(first)
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        // What is planned depends on paths that nobody can see in here in another way than outside: all are opened.
        let (plan, later) = planned(cx).map_err(first)?;
        let mut wanted = wanted(cx)?;
        wanted.extend(later.iter().map(Later::place));
        let masters = terminals::masters(cx.images)?;
        let owners = Owners::read(cx.images)?.of_type(NamespaceType::Mnt, &cx.users.borrow())?;
        let files = BuildFiles { wanted, masters, owners };
        let (built, masters) = build::build(&plan, OutsideMounts::from_fds(cx.brought)?, cx.images, &files)?;
        cx.masters.borrow_mut().extend(masters);
        for built in built {
            cx.opened.borrow_mut().extend(built.opened);
            if built.id != cx.id {
                cx.mounts.borrow_mut().push((built.id, built.namespace));
            }
        }
        Ok(())
    }
}

/// `TCP_ESTABLISHED` of `include/net/tcp_states.h`, which unix sockets have, too.
const ESTABLISHED: u32 = 1;

/// Files that the images know by their mounts: others cover their names.
fn wanted(cx: NamespaceRestore<'_>) -> Result<Vec<Wanted>, Problem> {
    let files: Vec<FileEntry> =
        if cx.images.has(&FILES, 0) { cx.images.read(&FILES, 0)? } else { Vec::new() };
    let wanted = |file: &FileEntry| {
        let reg = file.reg.as_ref()?;
        let mount = u32::try_from(reg.mnt_id?).ok().filter(|id| *id != 0)?;
        Some(Wanted { id: reg.id, mount, name: reg.name.clone(), socket: None })
    };
    let mut all: Vec<Wanted> = files.iter().filter_map(wanted).collect();
    if cx.images.has(&STASIS_SOCKETS, 0) {
        let sockets: Vec<StasisSocketEntry> = cx.images.read(&STASIS_SOCKETS, 0)?;
        for own in sockets {
            let entry = files.iter().filter_map(|file| file.usk.as_ref()).find(|entry| entry.id == own.id);
            // Streams that are connected have a name only because whoever accepted them has it.
            let is_accepted =
                |entry: &UnixSkEntry| entry.r#type as i32 != libc::SOCK_DGRAM && entry.state == ESTABLISHED;
            if let (Some(mount), Some(entry)) = (own.mnt_id, entry.filter(|entry| !is_accepted(entry))) {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                let socket = WantedSocket {
                    kind: entry.r#type as i32,
                    name: entry.name.clone(),
                    root: PathBuf::from(OsStr::from_bytes(own.root.as_deref().unwrap_or_default())),
                    dir: entry.name_dir.as_ref().map(PathBuf::from),
                };
                all.push(Wanted { id: own.id, mount, name, socket: Some(socket) });
            }
        }
    }
    Ok(all)
}
