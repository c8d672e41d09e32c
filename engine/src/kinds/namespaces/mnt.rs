//! Mount namespaces (mount_namespaces(7)): the tree of mounts, and contents of file systems that nobody else keeps.
//!
//! How they are read, kept and built is in `mounts.rs`; what is outside is opened before the tree is born, by the engine, which
//! still sees it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use proto::catalogue::{FILES, IDS, PSTREE, REMAP_FPATH, STASIS_SOCKETS};
use proto::messages::{
    FileEntry, PstreeEntry, RemapFilePathEntry, RemapType, StasisSocketEntry, TaskKobjIdsEntry, UnixSkEntry,
};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::cgroups::MovedRoots;
use crate::error::{Problem, SysError};
use crate::image::{Images, NewImages};
use crate::mounts::autofs::{self, Daemon};
use crate::mounts::build::{BuildFiles, Built, Numbered, Wanted, WantedKind};
use crate::mounts::classify::Whose;
use crate::mounts::model::{Mount, Namespace};
use crate::mounts::outside::OutsideMounts;
use crate::mounts::plan::{CgroupRoot, Plan};
use crate::mounts::procfs::{self, Later};
use crate::mounts::refusal::MountRefusal;
use crate::mounts::sockets::WantedSocket;
use crate::mounts::surroundings::Surroundings;
use crate::mounts::write::{self, Member};
use crate::mounts::{build, classify, plan, read};
use crate::net_spaces;
use crate::options::{MountOptions, RestoreOptions};
use crate::pid_spaces;
use crate::procfs::link::NamespaceType;
use crate::restore::user_spaces::Owners;
use crate::sys::fcntl::borrow;
use crate::terminals;

/// Mount namespaces.
#[derive(Debug)]
pub struct MntNamespace;

/// The mounts of all namespaces, with what comes from outside noted, and what stands in the way.
struct Classified {
    /// Each with a task that is in it.
    namespaces: Vec<(Namespace, i32)>,
    problems: Vec<Problem>,
}

fn classified(cx: NamespaceDump<'_>) -> Result<Classified, Problem> {
    let namespaces = cx.mounts.iter().map(|space| read::namespace(cx.root, space.pid, space.id));
    let mut namespaces = namespaces.collect::<Result<Vec<_>, _>>()?;
    if procfs::are_several(&namespaces) {
        let inits = pid_spaces::inits(cx.root, cx.pids);
        for (namespace, space) in namespaces.iter_mut().zip(cx.mounts) {
            procfs::mark(namespace, (cx.root, space.pid), &inits)?;
        }
    }
    for mount in namespaces.iter_mut().flat_map(|namespace| &mut namespace.mounts) {
        let ino =
            Some(&mount.root).filter(|_| mount.fstype == "nsfs").and_then(|r| net_spaces::mounted_ino(r));
        if let Some(id) = ino.and_then(|ino| net_spaces::id_of_ino(cx.spaces, ino)) {
            mount.set_net_space(id);
        }
    }
    let mut problems = if cx.options.inside.has(NamespaceType::Mnt) {
        let surroundings = &cx.options.inside.surroundings;
        classify::classify(&mut namespaces, surroundings, &cx.options.mounts, Whose::Trees)
    } else {
        // We are at home, too.
        let options = of_parts(&cx.options.mounts);
        classify::classify(&mut namespaces, &Surroundings::read()?, &options, Whose::Parts)
    };
    problems.extend(procfs::check(&namespaces));
    problems.extend(without_daemons(&namespaces, cx.pids));
    let pids = cx.mounts.iter().map(|space| space.pid);
    Ok(Classified { namespaces: namespaces.into_iter().zip(pids).collect(), problems })
}

/// File systems whose daemons are not in the tree.
fn without_daemons(namespaces: &[Namespace], pids: &[i32]) -> Vec<Problem> {
    let daemons = autofs::daemons(namespaces);
    if daemons.is_empty() {
        return Vec::new();
    }
    let folders = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok());
    let links: BTreeSet<PathBuf> =
        folders.flatten().filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).collect();
    let outside =
        daemons.iter().filter(|daemon| !links.contains(Path::new(&format!("pipe:[{}]", daemon.pipe))));
    let mounts = || namespaces.iter().flat_map(|namespace| &namespace.mounts);
    let mounts = outside.filter_map(|daemon| mounts().find(|mount| mount.id == daemon.mount));
    let refusal = |mount: &Mount| MountRefusal::Never {
        fstype: mount.fstype.clone(),
        reason: "the daemon that mounts what is used is not in the tree",
        mountpoint: mount.mountpoint.clone(),
    };
    mounts.map(|mount| Problem::new(refusal(mount)).object(mount.object())).collect()
}

/// Daemons of file systems in namespaces with these ids.
pub fn daemons(options: &RestoreOptions, images: &Images, ids: &[u32]) -> Result<Vec<Daemon>, Problem> {
    Ok(autofs::daemons(&plan::read(images, ids, &options.mounts)?))
}

/// What was asked for is for the root of the tree, which is at home.
fn of_parts(options: &MountOptions) -> MountOptions {
    MountOptions { root: None, ..options.clone() }
}

/// The mount namespaces of a set that are made: that of the root and others, or those of a part of the tree.
#[derive(Debug, Clone, Copy)]
pub struct ToMake<'a> {
    /// The image set.
    pub images: &'a Images,
    /// Their ids in the images.
    pub ids: &'a [u32],
    /// What the user asked for.
    pub options: &'a RestoreOptions,
    /// Whether the tree has a cgroup namespace.
    pub has_cgroups: bool,
}

impl<'a> ToMake<'a> {
    /// Those of a part of a tree.
    pub fn of_part(options: &'a RestoreOptions, images: &'a Images, ids: &'a [u32]) -> Self {
        Self { images, ids, options, has_cgroups: options.inside.has(NamespaceType::Cgroup) }
    }

    /// What is built, and what is mounted when the tree has been born.
    pub fn plan(self, options: &MountOptions) -> Result<Planned, Vec<Problem>> {
        let one = |problem| vec![problem];
        let (mut namespaces, later) = read_tables(self.images, self.ids, options).map_err(one)?;
        let mut cgroup_root = CgroupRoot::Namespace;
        if !self.has_cgroups {
            cgroup_root = CgroupRoot::Hierarchy;
            let moved = MovedRoots::read(self.images, &self.options.cgroups).map_err(one)?;
            let mounts = namespaces.iter_mut().flat_map(|namespace| &mut namespace.mounts);
            for mount in mounts.filter(|mount| mount.is_of_cgroups()) {
                mount.root = moved.of(&mount.fstype, &mount.options, &mount.root);
            }
        }
        let surroundings = Surroundings::read().map_err(one)?;
        let plan = plan::plan(&namespaces, self.images, &surroundings, options, cgroup_root)?;
        Ok(Planned { plan, later })
    }

    /// Plans those of a part of a tree: what is asked for about roots is not for them.
    pub fn plan_part(self) -> Result<Planned, Vec<Problem>> {
        self.plan(&of_parts(&self.options.mounts))
    }
}

/// What is built, and what is mounted when the tree has been born.
#[derive(Debug)]
pub struct Planned {
    plan: Plan,
    later: Vec<Later>,
}

impl Planned {
    /// Opens what is mounted from outside.
    pub fn open_outside(&self) -> Result<OutsideMounts, Vec<Problem>> {
        OutsideMounts::open(&self.plan)
    }

    /// Builds the namespaces, in a process of their own; these network namespaces may be mounted in them, and those that belong to
    /// user namespaces below the root's belong there. With them come the masters of terminals that were opened.
    pub fn build(
        &self,
        outside: OutsideMounts,
        images: &Images,
        spaces: Numbered,
        owners: Numbered,
    ) -> Result<(Vec<Built>, Numbered), Problem> {
        let mut wanted = wanted(images)?;
        wanted.extend(self.later.iter().map(Later::place));
        let files = BuildFiles { wanted, spaces, masters: terminals::masters(images)?, owners };
        build::build(&self.plan, outside, images, &files)
    }
}

/// The tables of namespaces, and what of them is mounted later.
fn read_tables(
    images: &Images,
    ids: &[u32],
    options: &MountOptions,
) -> Result<(Vec<Namespace>, Vec<Later>), Problem> {
    let mut namespaces = plan::read(images, ids, options)?;
    if let Some(problem) = procfs::check(&namespaces).into_iter().next() {
        return Err(problem);
    }
    let later = procfs::take_out(&mut namespaces);
    Ok((namespaces, later))
}

/// Mounts what can be mounted only when the tree has been born, in namespaces with these ids. Roots of that, by the ids that
/// mounts have in the images.
pub fn mount_later(
    options: &RestoreOptions,
    images: &Images,
    ids: &[u32],
) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    let inside = &options.inside;
    let found = |all: &[(u32, i32)], id: u32| {
        let fd = all.iter().find(|(known, _)| *known == id).map(|(_, fd)| *fd);
        fd.and_then(borrow)
    };
    let mut roots = Vec::new();
    for later in read_tables(images, ids, &options.mounts)?.1 {
        let place = later.place();
        let missing = || Problem::new(MountRefusal::NoPlace { place: place.name.clone() });
        let at = found(&inside.covered, place.id).ok_or_else(missing)?;
        let namespace = found(&inside.mounts, later.namespace);
        roots.extend(later.restore(at, namespace)?);
    }
    Ok(roots)
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
pub fn first(problems: Vec<Problem>) -> Problem {
    problems.into_iter().next().unwrap_or_else(|| Problem::new(MountRefusal::NoRoot))
}

impl NamespaceKind for MntNamespace {
    const NAME: &'static str = "mnt-namespace";
    const NOT_SAVED: &'static [&'static str] = &[
        "ids of mounts",
        "contents of file systems other than tmpfs, ramfs and devtmpfs",
        "a sysfs or mqueue of another network or ipc namespace than the root's: it is of the root's then",
        "mounts that are locked against a user namespace",
        "of an autofs: symbolic links in folders that have no folders; and who waits for a mount, who asks for it again",
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
        if let Err(found) = planned(cx).and_then(|planned| planned.open_outside()) {
            problems.extend(found);
        }
    }

    fn before_birth(cx: NamespaceRestore<'_>) -> Result<Vec<OwnedFd>, Problem> {
        let outside = planned(cx).and_then(|planned| planned.open_outside());
        outside.map(OutsideMounts::into_fds).map_err(first)
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        // What is planned depends on paths that nobody can see in here in another way than outside: all are opened.
        let planned = planned(cx).map_err(first)?;
        let owners = Owners::read(cx.images)?.of_type(NamespaceType::Mnt, &cx.users.borrow())?;
        let outside = OutsideMounts::from_fds(cx.brought)?;
        let (built, masters) = planned.build(outside, cx.images, net_spaces_of(cx)?, owners)?;
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

/// The network namespaces of the tree, that of its root among them.
fn net_spaces_of(cx: NamespaceRestore<'_>) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    let mut all = Vec::new();
    if let Some(id) = super::id(&super::ids_of_tree(cx.types), NamespaceType::Net) {
        all.push((id, net_spaces::here()?.into()));
    }
    for (id, fd) in cx.spaces.borrow().iter() {
        all.push((*id, fd.try_clone().map_err(SysError::io("fcntl(F_DUPFD_CLOEXEC)"))?));
    }
    Ok(all)
}

/// All of a tree that has one for itself.
fn planned(cx: NamespaceRestore<'_>) -> Result<Planned, Vec<Problem>> {
    let ids = ids(cx.images, cx.id).map_err(|problem| vec![problem])?;
    let has_cgroups = cx.types.contains(&NamespaceType::Cgroup);
    let all = ToMake { images: cx.images, ids: &ids, options: cx.options, has_cgroups };
    all.plan(&cx.options.mounts)
}

/// `TCP_ESTABLISHED` of `include/net/tcp_states.h`, which unix sockets have, too.
const ESTABLISHED: u32 = 1;

/// Ids of files that were removed.
fn removed(images: &Images) -> Result<BTreeSet<u32>, Problem> {
    let image = &REMAP_FPATH;
    let all: Vec<RemapFilePathEntry> = if images.has(image, 0) { images.read(image, 0)? } else { Vec::new() };
    let removed = all.iter().filter(|entry| entry.remap_type() != RemapType::Procfs);
    Ok(removed.map(|entry| entry.orig_id).collect())
}

/// Files that the images know by their mounts: others cover their names.
fn wanted(images: &Images) -> Result<Vec<Wanted>, Problem> {
    let files: Vec<FileEntry> = if images.has(&FILES, 0) { images.read(&FILES, 0)? } else { Vec::new() };
    let is_removed = removed(images)?;
    let wanted = |file: &FileEntry| {
        let reg = file.reg.as_ref()?;
        let mount = u32::try_from(reg.mnt_id?).ok().filter(|id| *id != 0)?;
        let kind = if is_removed.contains(&reg.id) { WantedKind::Folder } else { WantedKind::File };
        Some(Wanted { id: reg.id, mount, name: reg.name.clone(), kind })
    };
    let mut all: Vec<Wanted> = files.iter().filter_map(wanted).collect();
    if images.has(&STASIS_SOCKETS, 0) {
        let sockets: Vec<StasisSocketEntry> = images.read(&STASIS_SOCKETS, 0)?;
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
                all.push(Wanted { id: own.id, mount, name, kind: WantedKind::Socket(socket) });
            }
        }
    }
    Ok(all)
}
