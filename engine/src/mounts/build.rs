//! Builds the trees of mounts, in a process of its own that is in the new user namespace, and in the namespaces that file
//! systems show: of pids, networks, System V and POSIX objects, cgroups.
//!
//! 1. All file systems are made, while the mounts of the old namespace are still there: a user namespace may mount procfs
//!    and sysfs only where they can be seen already (`mount_too_revealing`, fs/namespace.c).
//! 2. The namespace gets an empty root, the *yard*, where file systems, mounts from outside and groups are put.
//! 3. Each namespace begins as a copy of the yard. Its mounts are cloned and put on each other, all private, so that nothing
//!    propagates meanwhile; then they get their flags and their groups.
//! 4. Its root becomes the root of the namespace, and the yard is gone from it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::unistd::{chroot, fchdir};
use proto::catalogue::BINFMT_MISC;
use proto::messages::BinfmtMiscEntry;

use super::extract::{Place, extract};
use super::file_system;
use super::flags;
use super::model::Mount;
use super::outside::OutsideMounts;
use super::plan::{Events, Plan, PlannedMount, PlannedNamespace, Source, SourceKind};
use super::read::Proc;
use super::refusal::MountRefusal;
use super::removed::Removed;
use super::sockets::{self, WantedSocket};
use super::yard::{self, Yard, open_path};
use super::{autofs, below, binfmt, procfs};
use crate::dump::inspect::read_proc;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::Images;
use crate::procfs::id_map::{self, IdMaps};
use crate::sys::mount::{self as sys, Depth};
use crate::terminals::{self, Master};

/// A namespace that was built.
#[derive(Debug)]
pub struct Built {
    /// Its number in the images.
    pub id: u32,
    /// The namespace, for setns(2).
    pub namespace: OwnedFd,
    /// The files that were wanted, by their ids in the images, without access to what is in them.
    pub opened: Vec<(u32, OwnedFd)>,
}

/// A file on a mount, which others may cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its id in the images.
    pub id: u32,
    /// The mount, by the id that it had.
    pub mount: u32,
    /// Its name, from the root of the namespace.
    pub name: String,
    /// What it is.
    pub kind: WantedKind,
}

/// What is wanted of a file on a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedKind {
    /// The file.
    File,
    /// The folder that it was in, or what is left of the path to that: it was removed.
    Folder,
    /// A socket, which is not opened, but made.
    Socket(WantedSocket),
}

/// What files are to be opened while mounts are built.
#[derive(Debug)]
pub struct BuildFiles {
    /// Those that others cover.
    pub wanted: Vec<Wanted>,
    /// Network namespaces, by the ids under which images know them.
    pub spaces: Vec<(u32, OwnedFd)>,
    /// Masters of pseudo-terminals, as far as their slaves are mounted somewhere.
    pub masters: Vec<Master>,
    /// User namespaces below ours, by the numbers of the mount namespaces that belong to them.
    pub owners: Vec<(u32, OwnedFd)>,
}

/// Files by numbers.
pub type Numbered = Vec<(u32, OwnedFd)>;

/// Builds all of them. The calling process has one thread, and is in the first namespace afterwards. Files that are wanted are
/// opened on their mounts before anything is mounted over them. With the namespaces come the masters of pseudo-terminals that
/// were opened.
pub fn build(
    plan: &Plan,
    outside: OutsideMounts,
    images: &Images,
    files: &BuildFiles,
) -> Result<(Vec<Built>, Numbered), Problem> {
    let proc = Proc::open()?;
    let archives = archives(plan, images)?;
    let interpreters = if images.has(&BINFMT_MISC, 0) { images.read(&BINFMT_MISC, 0)? } else { Vec::new() };
    let ids = own_ids()?;
    let step = "make a place for the mounts of the new namespaces";
    yard::enter_copy(MsFlags::MS_PRIVATE).while_trying_to(step)?;
    let (made, mut controls) = make(plan, outside, &ids, &archives, &files.spaces)?;
    register(plan, &made, &interpreters)?;
    let yard = Yard::make(proc).while_trying_to(step)?;
    let (removed, masters) = (BTreeMap::new(), RefCell::default());
    let mut builder = Builder { plan, yard, archives, files, removed, masters };
    builder.fill(&made)?;
    builder.make_removed()?;
    builder.put_groups()?;
    let built = plan.namespaces.iter().map(|namespace| builder.build(namespace));
    let mut built = built.collect::<Result<Vec<_>, _>>()?;
    built.iter_mut().take(1).for_each(|first| first.opened.extend(std::mem::take(&mut controls)));
    builder.removed.values().try_for_each(Removed::remove)?;
    // The first is the root's, in which we stay.
    built.first().map_or(Ok(()), |first| yard::enter(&first.namespace))?;
    nix::unistd::chdir("/").map_err(SysError::of("chdir"))?;
    for (source, mount) in plan.sources.iter().zip(&made) {
        if let (SourceKind::Inside(file_system, _), Some(mount)) = (&source.kind, mount) {
            file_system::set_flags(mount, file_system).about(|| source.object.clone())?;
        }
    }
    Ok((built, builder.masters.into_inner()))
}

/// Opens archives while their directory is in sight.
fn archives(plan: &Plan, images: &Images) -> Result<BTreeMap<String, File>, Problem> {
    let of_sources = plan.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Inside(_, archive) | SourceKind::Machine(_, archive) => archive.as_ref(),
        _ => None,
    });
    let mounts = plan.namespaces.iter().flat_map(|namespace| &namespace.mounts);
    let names = of_sources.chain(mounts.filter_map(|mount| mount.removed.as_ref()));
    let open = |name: &String| {
        let file = images.open_file(name)?;
        images.verify(name, &file)?;
        Ok((name.clone(), file))
    };
    names.map(open).collect()
}

/// The ids of the user namespace that we are in, while procfs is in sight.
fn own_ids() -> Result<IdMaps, Problem> {
    let read = |name: &str| read_proc(format!("/proc/self/{name}"), id_map::parse);
    Ok(IdMaps { uids: read("uid_map")?, gids: read("gid_map")? })
}

/// Makes the file systems, each mounted nowhere; and descriptors by which they are controlled, by their mounts.
fn make(
    plan: &Plan,
    outside: OutsideMounts,
    ids: &IdMaps,
    archives: &BTreeMap<String, File>,
    spaces: &[(u32, OwnedFd)],
) -> Result<(Vec<Option<OwnedFd>>, Numbered), Problem> {
    let mut outside = outside.into_fds().into_iter();
    let mut controls = Vec::new();
    let make = |source: &Source| match &source.kind {
        SourceKind::Inside(file_system, archive) if file_system.fstype == autofs::TYPE => {
            let archive = archive.as_ref().and_then(|name| archives.get(name));
            let [mount, root] = autofs::make(file_system, archive).about(|| source.object.clone())?;
            controls.extend(source.mounts.first().map(|id| (id | autofs::CONTROL, root)));
            Ok(Some(mount))
        }
        SourceKind::Inside(file_system, _) => {
            file_system::make(file_system, ids).map(Some).about(|| source.object.clone())
        }
        SourceKind::Layers(_) => Ok(None),
        SourceKind::NetSpace(id) => net_space(*id, spaces).map(Some).about(|| source.object.clone()),
        SourceKind::Outside(..) | SourceKind::Covered(_) | SourceKind::Machine(..) => Ok(outside.next()),
    };
    let made = plan.sources.iter().map(make).collect::<Result<_, Problem>>()?;
    Ok((made, controls))
}

/// A mount that keeps a network namespace.
fn net_space(id: u32, spaces: &[(u32, OwnedFd)]) -> Result<OwnedFd, Problem> {
    let found = spaces.iter().find(|(known, _)| *known == id);
    let (_, space) = found.ok_or_else(|| Problem::new(MountRefusal::NoNetSpace(id)))?;
    Ok(sys::clone_at(space, Path::new(""), Depth::One)?)
}

/// Registers interpreters, while procfs is in sight.
fn register(plan: &Plan, made: &[Option<OwnedFd>], interpreters: &[BinfmtMiscEntry]) -> Result<(), Problem> {
    for (source, mount) in plan.sources.iter().zip(made) {
        if let (SourceKind::Inside(file_system, _), Some(mount)) = (&source.kind, mount)
            && file_system.fstype == binfmt::TYPE
        {
            binfmt::register(mount, interpreters).about(|| source.object.clone())?;
        }
    }
    Ok(())
}

fn source_name(source: usize) -> String {
    format!("source-{source}")
}

fn group_name(group: usize) -> String {
    format!("group-{group}")
}

/// The name in the yard of the root that is being built.
const ROOT: &str = "root";

/// A tree that is being built.
struct Tree<'a> {
    namespace: &'a PlannedNamespace,
    /// Mounts, by their ids in the images.
    cloned: BTreeMap<u32, OwnedFd>,
    /// Those that are where they belong.
    attached: BTreeSet<u32>,
    /// Files that were wanted.
    opened: Vec<(u32, OwnedFd)>,
    /// Its namespace, if that is no copy of the yard that things can be cloned in.
    apart: Option<OwnedFd>,
}

impl Tree<'_> {
    fn root(&self) -> Option<&OwnedFd> {
        let root = self.namespace.order.first().and_then(|at| self.namespace.mounts.get(*at));
        root.and_then(|root| self.cloned.get(&root.mount.id))
    }
}

struct Builder<'a> {
    plan: &'a Plan,
    yard: Yard,
    archives: BTreeMap<String, File>,
    files: &'a BuildFiles,
    /// What was removed, by its source and its name there.
    removed: BTreeMap<(usize, PathBuf), Removed>,
    /// Masters of pseudo-terminals that were opened.
    masters: RefCell<Numbered>,
}

impl Builder<'_> {
    /// Fills file systems, and puts all sources into the yard.
    fn fill(&self, made: &[Option<OwnedFd>]) -> Result<(), Problem> {
        for (i, (source, mount)) in self.plan.sources.iter().zip(made).enumerate() {
            let Some(mount) = mount else { continue };
            let archive = match &source.kind {
                SourceKind::Inside(file_system, Some(name)) if file_system.fstype != autofs::TYPE => {
                    Some((name, Place::Empty))
                }
                SourceKind::Machine(_, Some(name)) => Some((name, Place::Filled)),
                _ => None,
            };
            if let Some((name, place)) = archive
                && let Some(archive) = self.archives.get(name)
            {
                extract(archive, mount, place).about(|| source.object.clone())?;
            }
            Yard::put(&source_name(i), mount).about(|| source.object.clone())?;
        }
        Ok(())
    }

    /// Makes what was removed in the sources that are there.
    fn make_removed(&mut self) -> Result<(), Problem> {
        let mounts = self.plan.namespaces.iter().flat_map(|namespace| &namespace.mounts);
        for planned in mounts.filter(|planned| planned.mount.removed) {
            let key = (planned.source, planned.below.clone());
            let name = source_name(planned.source);
            if self.removed.contains_key(&key) || !Yard::has(&name) {
                continue;
            }
            let archive = planned.removed.as_ref().and_then(|name| self.archives.get(name));
            let make = || Removed::make(Yard::get(&name)?, &planned.below, archive, &planned.mount);
            let made = make().about(|| planned.mount.object());
            self.removed.insert(key, made.while_trying_to("make again what it has mounted and was removed")?);
        }
        Ok(())
    }

    /// Puts mounts into the yard that propagate as the groups do, as far as their sources are there and they are not.
    fn put_groups(&self) -> Result<Vec<usize>, Problem> {
        let mut all = Vec::new();
        for (i, group) in self.plan.groups.iter().enumerate() {
            let Some(source) = self.plan.sources.get(group.source) else { continue };
            if !Yard::has(&source_name(group.source)) || Yard::has(&group_name(i)) {
                continue;
            }
            let put = || -> Result<(), SysError> {
                let from = match group.events {
                    Events::Group(master) => Yard::get(&group_name(master))?,
                    _ => Yard::get(&source_name(group.source))?,
                };
                let carrier = sys::clone_at(&from, Path::new(""), Depth::One)?;
                Yard::put(&group_name(i), &carrier)?;
                let kind = match group.events {
                    Events::Own => MsFlags::MS_PRIVATE,
                    Events::Peers => MsFlags::MS_SHARED,
                    Events::Group(_) | Events::Outside => MsFlags::MS_SLAVE,
                };
                sys::set_propagation(carrier.as_fd(), kind.bits())?;
                if group.shared.is_some() && group.events != Events::Peers {
                    sys::set_propagation(carrier.as_fd(), MsFlags::MS_SHARED.bits())?;
                }
                Ok(())
            };
            put().about(|| source.object.clone()).while_trying_to("make its peer group")?;
            all.push(i);
        }
        Ok(all)
    }

    /// Builds one namespace.
    fn build(&self, namespace: &PlannedNamespace) -> Result<Built, Problem> {
        let step = "make another mount namespace";
        let of_root = self.carrier_of_root(namespace).while_trying_to(step)?;
        let owner = self.files.owners.iter().find(|(id, _)| *id == namespace.id);
        let apart = match owner {
            Some((_, owner)) => Some(self.yard.copy_for(owner.as_fd()).while_trying_to(step)?),
            None => self.yard.copy().map(|()| None).while_trying_to(step)?,
        };
        let (cloned, attached) = (BTreeMap::new(), BTreeSet::new());
        let mut tree = Tree { namespace, cloned, attached, opened: Vec::new(), apart };
        loop {
            self.enter_yard(&tree)?;
            let missing = self.clone_mounts(&mut tree)?;
            Self::enter_tree(&tree)?;
            Self::attach_mounts(&mut tree)?;
            // What is made of folders of others waits until the others are there; so does the slave of a terminal.
            let Some(missing) = missing else { break };
            match self.missing_terminal(missing) {
                Some(index) => self.open_master(index, missing, &tree)?,
                None => self.make_layers(missing, &tree)?,
            }
        }
        self.enter_yard(&tree)?;
        let is_later = |planned: &PlannedMount| {
            of_root.as_ref().is_some_and(|(root, _)| root.mount.id == planned.mount.id)
        };
        let carriers = namespace
            .mounts
            .iter()
            .map(|planned| planned.group.filter(|_| !is_later(planned)).map(|at| Yard::get(&group_name(at))));
        let carriers = carriers.map(Option::transpose).collect::<Result<Vec<_>, _>>()?;
        Self::enter_tree(&tree)?;
        for (planned, carrier) in namespace.mounts.iter().zip(carriers) {
            let Some(mount) = tree.cloned.get(&planned.mount.id) else { continue };
            self.finish(planned, mount, carrier.as_ref()).about(|| planned.mount.object())?;
        }
        if let Some(root) = tree.root() {
            yard::become_root(root).while_trying_to("make its root the root of a mount namespace")?;
            if let Some((planned, carrier)) = of_root {
                self.join(planned, &carrier, root).about(|| planned.mount.object())?;
            }
        }
        Ok(Built { id: namespace.id, namespace: self.yard.proc().namespace()?, opened: tree.opened })
    }

    /// What has the peer group of the root, in the yard itself: a mount that has peers cannot become the root (pivot_root(2)), and
    /// when it is, the copy of the yard is gone.
    fn carrier_of_root<'a>(
        &self,
        namespace: &'a PlannedNamespace,
    ) -> Result<Option<(&'a PlannedMount, OwnedFd)>, SysError> {
        let root = namespace.order.first().and_then(|at| namespace.mounts.get(*at));
        let Some((root, at)) = root.and_then(|root| Some((root, root.group?))) else { return Ok(None) };
        yard::enter(self.yard.namespace())?;
        let name = group_name(at);
        if Yard::has(&name) { Ok(Some((root, Yard::get(&name)?))) } else { Ok(None) }
    }

    /// Goes where things can be cloned.
    fn enter_yard(&self, tree: &Tree<'_>) -> Result<(), SysError> {
        if tree.apart.is_some() { yard::enter(self.yard.namespace()) } else { Ok(()) }
    }

    /// Goes where they are put on each other.
    fn enter_tree(tree: &Tree<'_>) -> Result<(), SysError> {
        tree.apart.as_ref().map_or(Ok(()), yard::enter)
    }

    /// Clones mounts from their sources, in the order of their age, which is the order in which the kernel shows them. Stops
    /// at the first whose source is not there.
    fn clone_mounts<'a>(&self, tree: &mut Tree<'a>) -> Result<Option<&'a PlannedMount>, Problem> {
        for planned in &tree.namespace.mounts {
            if tree.cloned.contains_key(&planned.mount.id) {
                continue;
            }
            let name = source_name(planned.source);
            if !Yard::has(&name) || self.missing_terminal(planned).is_some() {
                return Ok(Some(planned));
            }
            let clone = || -> Result<OwnedFd, SysError> {
                let key = (planned.source, planned.below.clone());
                let below = self.removed.get(&key).map_or(&planned.below, |removed| &removed.path);
                let from = find(&Yard::get(&name)?, below)?;
                let mount = sys::clone_at(&from, Path::new(""), Depth::One)?;
                // A clone of a mount in a peer group is in the group, too.
                sys::set_propagation(mount.as_fd(), MsFlags::MS_PRIVATE.bits())?;
                Ok(mount)
            };
            let mount = clone().about(|| planned.mount.object()).while_trying_to("clone what is mounted")?;
            self.open_wanted(&planned.mount, &mount, &mut tree.opened)?;
            tree.cloned.insert(planned.mount.id, mount);
        }
        Ok(None)
    }

    /// Opens what is wanted on a mount, on which nothing is mounted yet.
    fn open_wanted(
        &self,
        mount: &Mount,
        root: &OwnedFd,
        opened: &mut Vec<(u32, OwnedFd)>,
    ) -> Result<(), Problem> {
        if mount.fstype == procfs::TYPE {
            let root = root.try_clone().map_err(SysError::io("dup"))?;
            opened.push((mount.id | procfs::ROOT, root));
        }
        let mut placed = false;
        for wanted in self.files.wanted.iter().filter(|wanted| wanted.mount == mount.id) {
            if let WantedKind::Socket(socket) = &wanted.kind {
                if !std::mem::replace(&mut placed, true) {
                    sockets::place(root, Path::new(&mount.mountpoint))
                        .while_trying_to("bind unix sockets")?;
                }
                opened.push((wanted.id, sockets::bind(socket)?));
                continue;
            }
            let below = Path::new(&wanted.name).strip_prefix(&mount.mountpoint);
            let Ok(below) = below else { continue };
            let found = match &wanted.kind {
                WantedKind::Folder => find_nearest(root, below.parent().unwrap_or(below)),
                _ => find(root, below),
            };
            match found {
                Ok(file) => opened.push((wanted.id, file)),
                // Something stands in for its name, or whoever opens it says that it is missing.
                Err(SysError { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => {}
                Err(error) => {
                    let problem = Problem::new(error).step("open what other mounts cover");
                    return Err(problem.object(Object::Path(wanted.name.clone().into())));
                }
            }
        }
        Ok(())
    }

    /// Puts those that were cloned where they belong.
    fn attach_mounts(tree: &mut Tree<'_>) -> Result<(), Problem> {
        let order = tree.namespace.order.iter().filter_map(|at| tree.namespace.mounts.get(*at));
        for planned in order {
            let id = planned.mount.id;
            let Some(mount) = tree.cloned.get(&id).filter(|_| !tree.attached.contains(&id)) else { continue };
            let attach = || -> Result<(), Problem> {
                match tree.cloned.get(&planned.mount.parent) {
                    Some(parent) if planned.mount.parent != id => {
                        let place = find(parent, &planned.place).map_err(|e| no_place(e, &planned.place))?;
                        sys::attach(mount.as_fd(), place.as_fd()).while_trying_to("mount it")
                    }
                    _ => Yard::put(ROOT, mount).while_trying_to("mount it"),
                }
            };
            attach().about(|| planned.mount.object())?;
            tree.attached.insert(id);
        }
        Ok(())
    }

    /// The number of the terminal whose slave is mounted, if its master is not open yet.
    fn missing_terminal(&self, planned: &PlannedMount) -> Option<u32> {
        let source = self.plan.sources.get(planned.source)?;
        let is_terminals =
            matches!(&source.kind, SourceKind::Inside(file_system, _) if file_system.fstype == "devpts");
        let index = planned.below.to_str().filter(|_| is_terminals)?.parse().ok()?;
        let is_open = self.masters.borrow().iter().any(|(known, _)| *known == index);
        (!is_open).then_some(index)
    }

    /// Opens the master of a terminal, by the name that it had, so that its slave has one.
    fn open_master(&self, index: u32, planned: &PlannedMount, tree: &Tree<'_>) -> Result<(), Problem> {
        let known = self.files.masters.iter().find(|master| master.index == index);
        let (path, flags) =
            known.map_or(("/dev/ptmx", libc::O_RDWR as u32), |master| (&*master.path, master.flags));
        let opened = inside(tree, || terminals::open_master(index, path, flags));
        let taken = || Problem::new(SysError { call: "open(/dev/ptmx)", errno: Errno::EEXIST });
        let master = opened.and_then(|master| master.ok_or_else(taken)).about(|| planned.mount.object())?;
        self.masters.borrow_mut().push((index, master));
        Ok(())
    }

    /// Makes the file system of a mount, of folders that are there now.
    fn make_layers(&self, planned: &PlannedMount, tree: &Tree<'_>) -> Result<(), Problem> {
        let at = planned.source;
        let Some(source) = self.plan.sources.get(at) else {
            return Err(Problem::new(MountRefusal::NoRoot));
        };
        let make = || -> Result<OwnedFd, Problem> {
            let SourceKind::Layers(file_system) = &source.kind else {
                return Err(Problem::new(MountRefusal::NoRoot));
            };
            // Its folders are named from the root of the namespace.
            inside(tree, || file_system::make(file_system, &IdMaps::default()))
        };
        let made = make().about(|| source.object.clone())?;
        // Put into the yard itself, so that namespaces that are built later have the same file system, and the same groups.
        let here = self.yard.proc().namespace()?;
        yard::enter(self.yard.namespace())?;
        Yard::put(&source_name(at), &made).about(|| source.object.clone())?;
        let mut names = vec![source_name(at)];
        names.extend(self.put_groups()?.into_iter().map(group_name));
        let clone = |name: &String| sys::clone_at(&Yard::get(name)?, Path::new(""), Depth::One);
        let clones = names.iter().map(clone).collect::<Result<Vec<_>, _>>();
        let clones = clones.about(|| source.object.clone())?;
        yard::enter(&here)?;
        names.iter().zip(&clones).try_for_each(|(name, clone)| Yard::put(name, clone))?;
        Ok(())
    }

    /// Gives a mount its flags and its group.
    fn finish(
        &self,
        planned: &PlannedMount,
        mount: &OwnedFd,
        carrier: Option<&OwnedFd>,
    ) -> Result<(), Problem> {
        let (set, clear) = flags::attributes(planned.mount.flags);
        sys::set_attributes(mount.as_fd(), set, clear).while_trying_to("set its flags")?;
        if let Some(carrier) = carrier {
            self.join(planned, carrier, mount)?;
        } else if flags::is_unbindable(planned.mount.flags) {
            sys::set_propagation(mount.as_fd(), MsFlags::MS_UNBINDABLE.bits())?;
        }
        Ok(())
    }

    /// Makes a mount a member of its group, which something else has.
    fn join(&self, planned: &PlannedMount, carrier: &OwnedFd, mount: &OwnedFd) -> Result<(), Problem> {
        match sys::set_group(carrier.as_fd(), mount.as_fd()) {
            // Whether something outside has peers, only an attempt tells.
            Err(SysError { errno: Errno::EINVAL, .. })
                if planned.group.is_some_and(|at| self.is_outside(at)) =>
            {
                log::warn!("{}: what it is outside propagates no events now", planned.mount.object());
                Ok(())
            }
            done => done.while_trying_to("make it a member of its peer group"),
        }
    }

    fn is_outside(&self, group: usize) -> bool {
        self.plan.groups.get(group).is_some_and(|group| group.events == Events::Outside)
    }
}

/// Does something while the root of a tree that is being built is our root directory.
fn inside<T>(tree: &Tree<'_>, act: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    let root = tree.root().ok_or_else(|| Problem::new(MountRefusal::NoRoot))?;
    let yard = open_path("/")?;
    fchdir(root).map_err(SysError::of("fchdir"))?;
    chroot(".").map_err(SysError::of("chroot"))?;
    let done = act();
    fchdir(&yard).map_err(SysError::of("fchdir"))?;
    chroot(".").map_err(SysError::of("chroot"))?;
    done
}

/// What is at a place below the root of a mount, on that mount itself. No link is followed.
fn find(mount: &OwnedFd, place: &Path) -> Result<OwnedFd, SysError> {
    if place.as_os_str().is_empty() {
        return mount.try_clone().map_err(SysError::io("dup"));
    }
    below::open(mount, place, OFlag::O_PATH | OFlag::O_NOFOLLOW)
}

/// What is there of the path to a folder below the root of a mount.
fn find_nearest(mount: &OwnedFd, folder: &Path) -> Result<OwnedFd, SysError> {
    let found = folder.ancestors().map(|folder| find(mount, folder));
    let is_there = |found: &Result<OwnedFd, SysError>| {
        !matches!(found, Err(SysError { errno: Errno::ENOENT | Errno::ENOTDIR, .. }))
    };
    found.into_iter().find(is_there).unwrap_or_else(|| find(mount, Path::new("")))
}

fn no_place(error: SysError, place: &Path) -> Problem {
    match error.errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            Problem::new(MountRefusal::NoPlace { place: Path::new("/").join(place).display().to_string() })
        }
        _ => Problem::new(error).step("find its mount point"),
    }
}
