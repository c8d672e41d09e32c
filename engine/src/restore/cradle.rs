//! The birth of a tree that has namespaces of its own.
//!
//! 1. Its root is forked from us into new namespaces. It is a copy of the engine still.
//! 2. Kinds of namespaces act from outside: the maps of a user namespace are written.
//! 3. In the root, kinds begin: there is a network namespace. From outside it is connected with what is there.
//!    Then kinds fill the namespaces, each its own, mounts last, and the root waits for whoever takes it.
//! 4. A process of ours goes into the namespaces (`inside.rs`), takes the root, and restores the tree from there.
//!
//! We stay outside, and tell how that one ended. If it failed, the root is killed, and with the init of a pid namespace all
//! who are in it. Should we be killed, that one is as well, and the tree with it (`PTRACE_O_EXITKILL`).

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Gid;
use proto::catalogue::{CORE, IDS, INVENTORY, NETNS, PIDNS, PSTREE};
use proto::messages::{
    CoreEntry, InventoryEntry, NetnsEntry, PidnsEntry, PstreeEntry, StasisUsernsEntry, TaskKobjIdsEntry,
};

use crate::cgroups::CgroupsRestore;
use crate::error::{Class, Context as _, Explain, Object, Problem, Result, SysError};
use crate::image::{Images, invalid};
use crate::inside::{self, Ended};
use crate::kinds::NAMESPACE_KINDS;
use crate::kinds::namespaces::user::become_root;
use crate::kinds::namespaces::{ErasedNamespaceKind, NamespaceRestore, id, own_types};
use crate::made_files::MadeFiles;
use crate::options::{Inside, Parent, RestoreOptions};
use crate::procfs::link::NamespaceType;
use crate::sys::process::{self, Waited};
use crate::sys::{namespace, pidfd};
use crate::visit;

use super::nothing_restored;
use super::own_pids::OwnPids;
use super::user_spaces;

/// Which process this is.
#[derive(Debug)]
pub enum Side {
    /// The tree has no namespaces of its own: there is only us.
    Home,
    /// The one that restores the tree, in its namespaces.
    Inside(Box<Inside>),
    /// The one that stayed; the other has ended.
    Outside {
        /// The root of the tree, by its pid here.
        root: i32,
        /// How the other ended.
        ended: Ended,
    },
}

/// The root could not fill its namespaces; it has said why.
#[derive(Debug, thiserror::Error)]
#[error("its first task could not fill its namespaces")]
struct NotFilled;

impl Explain for NotFilled {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// Why a namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
enum CradleRefusal {
    /// Nobody hands it in.
    #[error("the {kind} namespace \"{name}\" is external, and nobody hands it in")]
    NotHandedIn { kind: &'static str, name: String },
    /// It has ended, or was never there.
    #[error("the {kind} namespace that is to be joined is not there")]
    NotThere { kind: &'static str },
    /// It is something else.
    #[error("it is to be joined as a {kind} namespace, and is none")]
    IsNone { kind: &'static str },
    /// A user namespace can only take the place of another one.
    #[error(
        "a user namespace is joined, and the tree has no {0} namespace of its own, which would belong to it"
    )]
    JoinsUser(&'static str),
    /// Whoever makes the root is not its parent's child.
    #[error("a user namespace is joined, and the root is to be a sibling of ours")]
    JoinsUserAsSibling,
    /// It is the one that we are in.
    #[error("the user namespace that is to be joined is the one that stasis is in")]
    JoinsOurs,
    /// The pid is taken there.
    #[error("pid {0} is taken in the pid namespace that is joined")]
    PidTaken(u32),
}

impl Explain for CradleRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NotHandedIn { name, .. } => Some(format!("open it, and pass --inherit-fd fd[N]:{name}")),
            Self::NotThere { .. } | Self::IsNone { .. } => {
                Some("name a process that lives, or a file that the namespace is mounted on".into())
            }
            Self::PidTaken(_) => Some("end that process".into()),
            Self::JoinsUser(_) | Self::JoinsOurs => Some("leave out --join-ns user:…".into()),
            Self::JoinsUserAsSibling => Some("leave out --restore-sibling".into()),
        }
    }
}

/// Namespaces that are joined, by files for them: external ones, which are handed in, and what `--join-ns` names. Those that
/// the tree had in common with the command become types of its own.
fn joined(
    options: &RestoreOptions,
    images: &Images,
    ids: &TaskKobjIdsEntry,
    types: &mut Vec<NamespaceType>,
) -> Result<Vec<(NamespaceType, File)>, Problem> {
    let mut joined = Vec::new();
    for (kind, path) in &options.namespaces.join {
        let file = to_join(*kind, path).about(|| Object::Path(path.clone()))?;
        if *kind == NamespaceType::User {
            check_user(&file, options, types)?;
        }
        joined.push((*kind, file));
        if !types.contains(kind) {
            types.push(*kind);
        }
    }
    for kind in types
        .clone()
        .into_iter()
        .filter(|kind| !options.namespaces.join.iter().any(|(known, _)| known == kind))
    {
        let id = id(ids, kind).unwrap_or_default().into();
        let name = match kind {
            NamespaceType::Net if images.has(&NETNS, id) => {
                images.read_single::<NetnsEntry>(&NETNS, id)?.ext_key
            }
            NamespaceType::Pid if images.has(&PIDNS, id) => {
                images.read_single::<PidnsEntry>(&PIDNS, id)?.ext_key
            }
            _ => None,
        };
        let Some(name) = name else { continue };
        let none = || Problem::new(CradleRefusal::NotHandedIn { kind: kind.name(), name: name.clone() });
        let fd = options.inherited(&name).ok_or_else(none)?;
        let path = format!("/proc/self/fd/{fd}");
        let file = File::open(&path).map_err(SysError::io("open")).about(|| Object::Path(path.into()))?;
        joined.push((kind, file));
    }
    Ok(joined)
}

/// Opens a namespace that the user names.
fn to_join(kind: NamespaceType, path: &Path) -> Result<File, Problem> {
    let file = File::open(path).map_err(SysError::io("open")).map_err(|e| match e.errno {
        Errno::ENOENT | Errno::ESRCH => Problem::new(CradleRefusal::NotThere { kind: kind.name() }),
        _ => Problem::new(e),
    })?;
    match namespace::flag_of(&file) {
        Ok(flag) if flag == kind.clone_flag() => Ok(file),
        Ok(_) | Err(_) => Err(Problem::new(CradleRefusal::IsNone { kind: kind.name() })),
    }
}

/// Whether a user namespace can take the place of that of the tree.
fn check_user(file: &File, options: &RestoreOptions, types: &[NamespaceType]) -> Result<(), Problem> {
    let ino = |file: &File| file.metadata().map(|data| data.ino()).map_err(SysError::io("fstat"));
    let missing = [NamespaceType::User, NamespaceType::Pid].into_iter().find(|kind| !types.contains(kind));
    Err(Problem::new(match missing {
        Some(kind) => CradleRefusal::JoinsUser(kind.name()),
        None if options.parent == Parent::Sibling => CradleRefusal::JoinsUserAsSibling,
        None if ino(file)? == ino(&visit::here(NamespaceType::User)?)? => CradleRefusal::JoinsOurs,
        None => return Ok(()),
    }))
}

/// Forks the root, which is born in a user namespace that is joined: nobody can come back from there, so a small process of ours goes,
/// and makes the root as its sibling.
fn fork_in(plan: &Plan<'_>, user: &File, flags: i32) -> Result<Option<i32>, Problem> {
    let (heard, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
    let Some(midwife) = process::fork()? else {
        drop(heard);
        let go = || -> Result<Option<i32>, Problem> {
            // There it may be that nobody may change them.
            let home = user_spaces::home(plan.images)?.filter(StasisUsernsEntry::groups_denied);
            set_groups(&home.unwrap_or_default().groups)?;
            namespace::enter(user, libc::CLONE_NEWUSER)?;
            become_root()?;
            Ok(super::plan::fork_when_free(plan.root.pid as i32, flags | libc::CLONE_PARENT)?)
        };
        let root = match go() {
            Ok(None) => return Ok(None),
            Ok(Some(root)) => root,
            Err(problem) => {
                log::error!("{}", problem.cause);
                0
            }
        };
        // Who cannot be told sees the end of the pipe.
        let _told = nix::unistd::write(&told, &root.to_ne_bytes());
        process::exit_now(0)
    };
    drop(told);
    let mut root = [0; 4];
    let read = nix::unistd::read(&heard, &mut root).map_err(SysError::of("read"));
    while let Ok(Waited::Stopped(_)) = process::wait(midwife) {}
    match i32::from_ne_bytes(root) {
        root if root > 0 && read? == 4 => Ok(Some(root)),
        _ => Err(Problem::new(NotFilled)),
    }
}

/// A stay in namespaces that are joined, from which we come back: of a pid namespace, it is our children that are in it.
#[derive(Debug)]
struct Visit {
    homes: Vec<(NamespaceType, File)>,
    /// Our root and our directory, which a visit of a mount namespace changes.
    dirs: Option<[File; 2]>,
}

impl Visit {
    fn pay(joined: &[(NamespaceType, File)]) -> Result<Self, Problem> {
        // There, the procfs may be another one.
        let home = |(kind, _): &(NamespaceType, File)| {
            let path = format!("/proc/self/ns/{}", kind.name());
            let home = File::open(&path).map_err(SysError::io("open"));
            Ok((*kind, home.about(|| Object::Path(path.into()))?))
        };
        let visited = joined.iter().filter(|(kind, _)| *kind != NamespaceType::User);
        let mut visit = Self { homes: visited.map(home).collect::<Result<_, Problem>>()?, dirs: None };
        if joined.iter().any(|(kind, _)| *kind == NamespaceType::Mnt) {
            let dir = |path: &str| File::open(path).map_err(SysError::io("open"));
            visit.dirs = Some([dir("/")?, dir(".")?]);
        }
        for (kind, file) in joined.iter().filter(|(kind, _)| *kind != NamespaceType::User) {
            namespace::enter(file, kind.clone_flag()).while_trying_to("join its namespaces")?;
        }
        Ok(visit)
    }

    /// In a child, which is where it is to be.
    fn stay(mut self) {
        self.homes.clear();
        self.dirs = None;
    }

    /// Goes home.
    fn end(mut self) -> Result<(), Problem> {
        self.go_home().while_trying_to("leave the namespaces that were joined")
    }

    fn go_home(&mut self) -> Result<(), SysError> {
        for (kind, home) in self.homes.drain(..) {
            namespace::enter(&home, kind.clone_flag())?;
        }
        if let Some([root, dir]) = self.dirs.take() {
            nix::unistd::fchdir(&root).map_err(SysError::of("fchdir"))?;
            nix::unistd::chroot(".").map_err(SysError::of("chroot"))?;
            nix::unistd::fchdir(&dir).map_err(SysError::of("fchdir"))?;
        }
        Ok(())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(e) = self.go_home() {
            log::warn!("cannot leave a namespace: {e}");
        }
    }
}

/// What images say of the namespaces of the tree.
struct Plan<'a> {
    options: &'a RestoreOptions,
    images: &'a Images,
    root: PstreeEntry,
    /// All pids of the tree.
    pids: Vec<i32>,
    ids: TaskKobjIdsEntry,
    types: Vec<NamespaceType>,
    /// Files that only the root could open, by their ids in the images.
    opened: RefCell<Vec<(u32, OwnedFd)>>,
    /// Mount namespaces of other tasks, by their ids in the images.
    mounts: RefCell<Vec<(u32, OwnedFd)>>,
    /// Masters of pseudo-terminals that something mounted shows, by their numbers.
    masters: RefCell<Vec<(u32, OwnedFd)>>,
    /// Network namespaces that the root makes beside its own: known to the root, and then to those who ask it.
    spaces: RefCell<Vec<(u32, OwnedFd)>>,
    /// User namespaces below that of the root, which makes them.
    users: RefCell<MadeFiles>,
    /// Of these, those that are joined.
    joined: Vec<(NamespaceType, File)>,
}

impl<'a> Plan<'a> {
    fn read(options: &'a RestoreOptions, images: &'a Images) -> Result<Self, Problem> {
        let inventory: InventoryEntry = images.read_single(&INVENTORY, 0)?;
        let tree: Vec<PstreeEntry> = images.read(&PSTREE, 0)?;
        let pids = tree.iter().flat_map(|task| &task.threads).map(|tid| *tid as i32).collect();
        let root = tree.into_iter().next().ok_or_else(|| invalid(&PSTREE, 0, "there are no tasks"))?;
        let (mut ids, mut types) = (TaskKobjIdsEntry::default(), Vec::new());
        if let Some(ours) = inventory.root_ids.filter(|_| images.has(&IDS, root.pid.into())) {
            ids = images.read_single(&IDS, root.pid.into())?;
            types = own_types(&ids, &ours);
        }
        let joined = joined(options, images, &ids, &mut types)?;
        let is_joined = |kind| joined.iter().any(|(known, _)| *known == kind);
        if types.contains(&NamespaceType::Pid) && root.pid != 1 && !is_joined(NamespaceType::Pid) {
            return Err(invalid(&PSTREE, 0, "the root of a pid namespace does not have pid 1"));
        }
        Ok(Self {
            options,
            images,
            root,
            pids,
            ids,
            types,
            joined,
            spaces: RefCell::default(),
            users: RefCell::default(),
            opened: RefCell::default(),
            mounts: RefCell::default(),
            masters: RefCell::default(),
        })
    }

    /// Whether the tree has no pid namespace, and somebody here has one of its pids.
    fn needs_own_pids(&self) -> bool {
        !self.types.contains(&NamespaceType::Pid)
            && self.pids.iter().any(|pid| super::plan::pid_taken(*pid).is_some())
    }

    /// Makes a pid namespace for it, which it joins.
    fn own_pids(&mut self) -> Result<OwnPids, Problem> {
        let mut own = OwnPids::make(self.types.contains(&NamespaceType::Mnt))?;
        for (kind, file) in std::mem::take(&mut own.namespaces) {
            self.types.push(kind);
            self.joined.push((kind, file));
        }
        Ok(own)
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.kinds().for_each(|(kind, cx)| kind.check(cx, &mut problems));
        problems
    }

    /// The combination of control groups that the root is in.
    fn root_set(&self) -> Result<Option<u32>, Problem> {
        let core: CoreEntry = self.images.read_single(&CORE, self.root.pid.into())?;
        let own = core.thread_core.as_ref().and_then(|thread| thread.cg_set);
        Ok(own.or(core.tc.and_then(|task| task.cg_set)))
    }

    fn is_joined(&self, kind: NamespaceType) -> bool {
        self.joined.iter().any(|(known, _)| *known == kind)
    }

    /// Kinds of the namespaces that are made, in the order of the registry.
    fn kinds(&self) -> impl Iterator<Item = (&'static dyn ErasedNamespaceKind, NamespaceRestore<'_>)> {
        let is_own = |kind: NamespaceType| self.types.contains(&kind) && !self.is_joined(kind);
        let own = NAMESPACE_KINDS.iter().filter(move |kind| is_own(kind.namespace_type()));
        own.map(|kind| {
            let id = id(&self.ids, kind.namespace_type()).unwrap_or_default();
            (
                *kind,
                NamespaceRestore {
                    options: self.options,
                    images: self.images,
                    types: &self.types,
                    spaces: &self.spaces,
                    users: &self.users,
                    id,
                    brought: &[],
                    opened: &self.opened,
                    mounts: &self.mounts,
                    masters: &self.masters,
                },
            )
        })
    }
}

/// Makes the namespaces that a tree has for itself, with its root in them, and goes there.
pub fn enter(options: &RestoreOptions, images: &Images, cgroups: &mut CgroupsRestore) -> Result<Side> {
    let fail = |problems| nothing_restored(options, problems);
    let mut plan = Plan::read(options, images).map_err(|p| fail(vec![p]))?;
    let wants_own = options.namespaces.own_pids && plan.needs_own_pids();
    if plan.types.is_empty() && !wants_own {
        return Ok(Side::Home);
    }
    let problems = plan.check();
    if !problems.is_empty() {
        return Err(fail(problems));
    }
    let own = if wants_own { Some(plan.own_pids().map_err(|p| fail(vec![p]))?) } else { None };
    let side = make(&plan, cgroups).map_err(|p| fail(vec![p]))?;
    if let (Some(own), Side::Outside { root, ended: Ended::Code(0) }) = (own, &side) {
        own.let_go(plan.root.pid as i32).map_err(|p| fail(vec![p]))?;
        log::warn!("pids are taken: the tree is in a pid namespace of its own; its root has pid {root} here");
    }
    Ok(side)
}

/// Whether a tree has namespaces for itself; what would stand in the way of making them.
pub(super) fn check(options: &RestoreOptions, images: &Images) -> Result<bool, Vec<Problem>> {
    let plan = Plan::read(options, images).map_err(|problem| vec![problem])?;
    let problems = plan.check();
    if problems.is_empty() { Ok(!plan.types.is_empty()) } else { Err(problems) }
}

fn make(plan: &Plan<'_>, cgroups: &mut CgroupsRestore) -> Result<Side, Problem> {
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"));
    let brought = plan.kinds().map(|(kind, cx)| kind.before_birth(cx)).collect::<Result<Vec<_>, _>>()?;
    let (go, begin) = pipe()?;
    let (done, filled) = pipe()?;
    let (done, filled) = (File::from(done), File::from(filled));
    let (hold, held) = pipe()?;
    cgroups.make()?;
    // The time namespace of a child is that which its maker has prepared; that of cgroups is made where it is to begin.
    // A network namespace is made by the root, when that is somebody in its user namespace: to the root there belongs what
    // /proc shows of it.
    let later = [NamespaceType::Time, NamespaceType::Cgroup, NamespaceType::Net];
    let new = plan.types.iter().filter(|kind| !later.contains(kind) && !plan.is_joined(**kind));
    let mut flags = new.fold(0, |flags, kind| flags | kind.clone_flag());
    if plan.options.parent == Parent::Sibling {
        flags |= libc::CLONE_PARENT;
    }
    let visit = Visit::pay(&plan.joined)?;
    let user = plan.joined.iter().find(|(kind, _)| *kind == NamespaceType::User).map(|(_, file)| file);
    let forked = match user {
        Some(user) => fork_in(plan, user, flags),
        None => fork_root(plan, flags),
    };
    let Some(root) = forked.while_trying_to("create the first task of its namespaces")? else {
        visit.stay();
        drop((begin, done));
        if let Err(problem) = fill(plan, &brought, &go, &filled) {
            // We are killed when the pipe ends: not before we have said why.
            let _until_we_end = filled.into_raw_fd();
            return Err(problem);
        }
        drop((go, filled));
        process::wait_to_be_taken(&hold, &held);
    };
    visit.end()?;
    let newborn = Newborn { root, pidfd: pidfd::open(root)? };
    drop((go, filled));
    plan.kinds().try_for_each(|(kind, cx)| kind.act_outside(cx, root))?;
    if plan.types.contains(&NamespaceType::Cgroup)
        && !plan.is_joined(NamespaceType::Cgroup)
        && let Some(set) = plan.root_set()?
    {
        cgroups.enter_roots(set, root)?;
    }
    tell(&begin)?;
    let Some(spaces) = hear_of(&done, &newborn.pidfd)? else { return not_filled(plan, newborn) };
    let Some(users) = hear_of(&done, &newborn.pidfd)? else { return not_filled(plan, newborn) };
    plan.spaces.replace(spaces);
    plan.users.replace(users.into());
    plan.kinds().try_for_each(|(kind, cx)| kind.connect_outside(cx, root))?;
    tell(&begin)?;
    let Some(opened) = hear_of(&done, &newborn.pidfd)? else { return not_filled(plan, newborn) };
    let Some(mounts) = hear_of(&done, &newborn.pidfd)? else { return not_filled(plan, newborn) };
    let Some(masters) = hear_of(&done, &newborn.pidfd)? else { return not_filled(plan, newborn) };
    let ids = inside::ids_of(root, &plan.types)?;
    let Some(worker) = inside::enter(&newborn.pidfd, &plan.types, &plan.pids)? else {
        let dies_with_us = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
        dies_with_us.map_err(SysError::of("prctl(PR_SET_PDEATHSIG)"))?;
        // It is for the other one to end.
        newborn.forget();
        // It ends with the last of us who has the other end of its pipe; we have it until it is traced.
        let _until_we_end = held.into_raw_fd();
        // From now on they are open here, under these numbers.
        let numbers =
            |files: Vec<(u32, OwnedFd)>| files.into_iter().map(|(id, fd)| (id, fd.into_raw_fd())).collect();
        let shared = plan.joined.iter().map(|(kind, _)| *kind).collect();
        let (types, inner_pid) = (plan.types.clone(), plan.root.pid as i32);
        return Ok(Side::Inside(Box::new(Inside {
            types,
            shared,
            outer_pid: root,
            inner_pid,
            ids,
            covered: numbers(opened),
            mounts: numbers(mounts),
            spaces: plan.spaces.take().into(),
            users: plan.users.take(),
            masters: masters.into(),
            ..Inside::default()
        })));
    };
    // They are for the other one to hold.
    drop((plan.spaces.take(), plan.users.take(), opened, mounts, masters));
    let ended = inside::wait(worker)?;
    if ended == Ended::Code(0) {
        newborn.forget();
    }
    Ok(Side::Outside { root, ended })
}

/// Forks the root, with the groups that it is to keep if nobody may change them where it is born.
fn fork_root(plan: &Plan<'_>, flags: i32) -> Result<Option<i32>, Problem> {
    let denied = user_spaces::home(plan.images)?.filter(StasisUsernsEntry::groups_denied);
    let ours = nix::unistd::getgroups().map_err(SysError::of("getgroups"))?;
    if let Some(home) = &denied {
        set_groups(&home.groups)?;
    }
    let forked = super::plan::fork_when_free(plan.root.pid as i32, flags);
    if denied.is_some() && !matches!(forked, Ok(None)) {
        set_groups(&ours.into_iter().map(Gid::as_raw).collect::<Vec<_>>())?;
    }
    forked.map_err(|e| match e.errno {
        Errno::EEXIST => Problem::new(CradleRefusal::PidTaken(plan.root.pid)),
        _ => Problem::new(e),
    })
}

fn set_groups(groups: &[u32]) -> Result<(), SysError> {
    let groups: Vec<Gid> = groups.iter().map(|id| Gid::from_raw(*id)).collect();
    nix::unistd::setgroups(&groups).map_err(SysError::of("setgroups"))
}

/// In the root: fills the namespaces, when all is done that is to be done from outside.
///
/// Files that others are told of stay open: the root goes on in here until somebody takes it, and empties it.
fn fill(plan: &Plan<'_>, brought: &[Vec<OwnedFd>], go: &OwnedFd, filled: &File) -> Result<(), Problem> {
    hear(go)?;
    let (user, others): (Vec<_>, Vec<_>) =
        plan.kinds().partition(|(kind, _)| kind.namespace_type() == NamespaceType::User);
    let begin = |(kind, cx): &(&dyn ErasedNamespaceKind, NamespaceRestore<'_>)| {
        kind.begin(*cx).while_trying_to("make its namespaces")
    };
    user.iter().try_for_each(begin)?;
    // Others may belong to those below it.
    let home = id(&plan.ids, NamespaceType::User).unwrap_or_default();
    plan.users.replace(user_spaces::make(plan.images, home)?.into());
    others.iter().try_for_each(begin)?;
    tell_of(filled, &plan.spaces.borrow())?;
    tell_of(filled, plan.users.borrow().files())?;
    hear(go)?;
    for ((kind, cx), brought) in plan.kinds().zip(brought) {
        let cx = NamespaceRestore { brought, ..cx };
        kind.restore(cx).while_trying_to("restore its namespaces")?;
    }
    tell_of(filled, &plan.opened.borrow())?;
    tell_of(filled, &plan.mounts.borrow())?;
    tell_of(filled, &plan.masters.borrow())
}

/// Says which files we have open for whoever takes us: how many, and of each its id and our descriptor.
fn tell_of(mut pipe: &File, files: &[(u32, OwnedFd)]) -> Result<(), Problem> {
    let pairs = files.iter().flat_map(|(id, fd)| [*id, fd.as_raw_fd() as u32]);
    let words = std::iter::once(files.len() as u32).chain(pairs);
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    pipe.write_all(&bytes).map_err(SysError::io("write")).map_err(Problem::new)
}

/// Takes over the files that the root tells of; none if it has ended instead, and has said why.
fn hear_of(mut pipe: &File, root: &OwnedFd) -> Result<Option<Vec<(u32, OwnedFd)>>, Problem> {
    let mut word = || {
        let mut bytes = [0; 4];
        pipe.read_exact(&mut bytes).ok().map(|()| u32::from_ne_bytes(bytes))
    };
    let Some(count) = word() else { return Ok(None) };
    let mut files = Vec::new();
    for _ in 0..count {
        let (Some(id), Some(fd)) = (word(), word()) else { return Ok(None) };
        let taken = pidfd::getfd(root, fd as i32).while_trying_to("take files over from the first task")?;
        files.push((id, taken));
    }
    Ok(Some(files))
}

/// Says that we are done.
fn tell(pipe: &OwnedFd) -> Result<(), Problem> {
    nix::unistd::write(pipe, b".").map(drop).map_err(SysError::of("write")).map_err(Problem::new)
}

/// Waits until the other side is done.
fn hear(pipe: &OwnedFd) -> Result<(), Problem> {
    let read = nix::unistd::read(pipe, &mut [0]).map_err(SysError::of("read"))?;
    if read == 0 { Err(Problem::new(NotFilled)) } else { Ok(()) }
}

/// The root has ended, or is about to, and has said why.
fn not_filled(plan: &Plan<'_>, newborn: Newborn) -> Result<Side, Problem> {
    // A sibling's end is our parent's to see.
    if plan.options.parent == Parent::Sibling {
        return Err(Problem::new(NotFilled));
    }
    let root = newborn.root;
    newborn.forget();
    Ok(Side::Outside { root, ended: inside::wait(root)? })
}

/// A root that is killed when this is dropped.
#[derive(Debug)]
struct Newborn {
    root: i32,
    pidfd: OwnedFd,
}

impl Newborn {
    /// It lives, or somebody else looks after it.
    fn forget(mut self) {
        self.root = 0;
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if self.root == 0 {
            return;
        }
        if let Err(e) = pidfd::send_signal(&self.pidfd, libc::SIGKILL) {
            log::debug!("the root of the tree: {e}");
        }
        // As a sibling it is our parent's to reap.
        while let Ok(Waited::Stopped(_)) = process::wait(self.root) {}
    }
}
