//! User namespaces below that of the root: made before the tasks are, and entered by them as late as can be
//! (`crate::user_spaces`).
//!
//! - *Making* is the work of forks of ours, in the user namespace of the root: one goes to the parent, becomes who has made it, and
//!   unshares it; we write its maps. Other namespaces that belong to it are unshared by a fork that has gone there. So they are there
//!   whatever becomes of tasks, and a task only enters them.
//! - *Entering* takes all privileges away that a stub has over what is outside. It sets its ids before, while all ids can be set:
//!   that they have no place in the maps, or that groups are denied, is no obstacle then. A task with one thread goes with its
//!   credentials (`kinds/task/creds.rs`). Nobody may enter who has several, so such a task goes before it has them, and they get
//!   their numbers in another way (`last_pid.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::unistd::{Gid, Uid};
use proto::catalogue::{STASIS_USERNS, USERNS};
use proto::messages::{CredsEntry, StasisUsernsEntry, UidGidExtent, UsernsEntry};

use super::plan::PlanRefusal;
use super::set::Task;
use super::stub::{Stub, Stubs, add_setns};
use crate::args;
use crate::dump::inspect::read_proc;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, invalid};
use crate::kinds::namespaces::{self, user};
use crate::kinds::task::UserSpaceEntry;
use crate::kinds::task::creds::{self, BornBelow};
use crate::made_files::MadeFiles;
use crate::mounts::envoy;
use crate::options::RestoreOptions;
use crate::procfs;
use crate::procfs::id_map::{self, IdMaps};
use crate::procfs::link::NamespaceType;
use crate::sys::namespace;
use crate::tracee::batch::Batch;
use crate::user_spaces::OWNED;
use crate::visit;

fn read_all(images: &Images) -> Result<Vec<StasisUsernsEntry>, Problem> {
    if images.has(&STASIS_USERNS, 0) { images.read(&STASIS_USERNS, 0) } else { Ok(Vec::new()) }
}

/// The namespaces of a set below the root's, parents before their children.
pub(super) fn read(images: &Images) -> Result<Vec<StasisUsernsEntry>, Problem> {
    Ok(read_all(images)?.into_iter().filter(|entry| entry.parent != 0).collect())
}

/// What is kept of that of the root.
pub(crate) fn home(images: &Images) -> Result<Option<StasisUsernsEntry>, Problem> {
    Ok(read_all(images)?.into_iter().find(|entry| entry.parent == 0))
}

/// Which namespaces of other types belong to one of these, with who is root there.
#[derive(Debug, Default)]
pub(crate) struct Owners(Vec<(NamespaceType, u32, Owner)>);

/// A user namespace that something belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    /// Its id.
    pub id: u32,
    /// Its root, as the user namespace of the tree's root numbers users; that of the machine if it has none there.
    pub root: u32,
}

impl Owners {
    /// Reads them.
    pub(crate) fn read(images: &Images) -> Result<Self, Problem> {
        let entries = read(images)?;
        let mut owners = Self::default();
        for entry in entries.iter().filter(|entry| !entry.owned.is_empty()) {
            let owner = Owner { id: entry.id, root: root_of(images, &entries, entry)? };
            for owned in &entry.owned {
                let kind = OWNED.into_iter().find(|kind| kind.clone_flag().cast_unsigned() == owned.r#type);
                let kind = kind.ok_or_else(|| invalid(&STASIS_USERNS, 0, "it owns what nobody may own"))?;
                owners.0.push((kind, owned.id, owner));
            }
        }
        Ok(owners)
    }

    /// What leads to the owners of all namespaces of a type, by the ids of these.
    pub(crate) fn of_type(
        &self,
        kind: NamespaceType,
        users: &MadeFiles,
    ) -> Result<Vec<(u32, OwnedFd)>, Problem> {
        let of_type = self.0.iter().filter(|(known, ..)| *known == kind);
        let pairs = of_type.map(|(_, id, owner)| {
            let none =
                || invalid(&STASIS_USERNS, 0, "a namespace belongs to a user namespace that is not there");
            let user = users.get(owner.id).ok_or_else(none)?;
            Ok((*id, user.try_clone_to_owned().map_err(SysError::io("dup"))?))
        });
        pairs.collect()
    }

    /// The owner of a namespace; none if that is the root's user namespace.
    pub(crate) fn of(&self, kind: NamespaceType, id: u32) -> Option<Owner> {
        self.0.iter().find(|(known, own, _)| (*known, *own) == (kind, id)).map(|(.., owner)| *owner)
    }
}

/// Who is root in a user namespace, as that of the tree's root numbers users.
fn root_of(images: &Images, all: &[StasisUsernsEntry], entry: &StasisUsernsEntry) -> Result<u32, Problem> {
    let (mut at, mut user) = (Some(entry), 0_u32);
    // Parents come before their children, so this ends.
    while let Some(space) = at {
        let maps: UsernsEntry = images.read_single(&USERNS, space.id.into())?;
        let within = |extent: &UidGidExtent| {
            let by = user.checked_sub(extent.first).filter(|by| *by < extent.count)?;
            extent.lower_first.checked_add(by)
        };
        let Some(found) = maps.uid_map.iter().find_map(within) else { return Ok(0) };
        user = found;
        at = all.iter().take_while(|other| other.id != space.id).find(|other| other.id == space.parent);
    }
    Ok(user)
}

/// Finds what is impossible.
pub(super) fn check(tasks: &[Task], images: &Images) -> Vec<Problem> {
    let entries = match read(images) {
        Ok(entries) => entries,
        Err(problem) => return vec![problem],
    };
    let damaged = |what| invalid(&STASIS_USERNS, 0, what);
    let mut problems = Vec::new();
    let ids = |task: &Task| task.alive.as_ref().map(|alive| alive.ids);
    let home = tasks.first().and_then(|root| ids(root)?.user_ns_id);
    let mut known: BTreeSet<u32> = home.into_iter().collect();
    for entry in &entries {
        if !known.contains(&entry.parent) || !known.insert(entry.id) {
            problems.push(damaged(
                "the parent of a user namespace does not come before it, or it is there twice",
            ));
        }
        if !images.has(&USERNS, entry.id.into()) {
            problems.push(damaged("a user namespace has no maps"));
        }
    }
    for (at, task) in tasks.iter().enumerate() {
        let Some(own) = ids(task).filter(|own| own.user_ns_id.is_some() && own.user_ns_id != home) else {
            continue;
        };
        let mut refuse = |refusal| problems.push(Problem::new(refusal).task(&task.name()));
        if !own.user_ns_id.is_some_and(|id| known.contains(&id)) {
            refuse(PlanRefusal::OtherNamespace(NamespaceType::User.name()));
        }
        let fs = |task: &Task| task.alive.as_ref().map(|alive| alive.ids.fs_id);
        if tasks.iter().enumerate().any(|(other, task)| other != at && fs(task) == Some(own.fs_id)) {
            refuse(PlanRefusal::LostSharing { what: "root and working directory" });
        }
    }
    match Owners::read(images) {
        Ok(owners) => problems.extend(check_births(tasks, &owners)),
        Err(problem) => problems.push(problem),
    }
    problems
}

/// Finds those who are born below, and could not come to what they have.
fn check_births(tasks: &[Task], owners: &Owners) -> Vec<Problem> {
    let root = tasks.first().and_then(|root| root.alive.as_ref());
    let mut problems = Vec::new();
    let births = births(tasks, owners);
    for pid in births.keys().copied() {
        let Some(task) = tasks.iter().find(|task| task.pid == pid) else { continue };
        let (Some(alive), Some(root)) = (&task.alive, root) else { continue };
        let mut refuse = |refusal| problems.push(Problem::new(refusal).task(&task.name()));
        let outside = tasks.iter().filter(|other| !births.contains_key(&other.pid));
        let shares = |other: &Task| {
            other.alive.as_ref().is_some_and(|other| {
                other.ids.vm_id == alive.ids.vm_id || other.ids.files_id == alive.ids.files_id
            })
        };
        if outside.into_iter().any(shares) {
            refuse(PlanRefusal::LostSharing { what: "address space, or descriptors" });
        }
        let id = namespaces::id;
        let apart = |kind: &NamespaceType| {
            let own = id(&alive.ids, *kind);
            let is_owned = own.is_some_and(|own| owners.of(*kind, own).is_some());
            *kind != NamespaceType::User && own != id(&root.ids, *kind) && !is_owned
        };
        if let Some(kind) = NamespaceType::ALL.into_iter().find(apart) {
            refuse(PlanRefusal::OtherNamespace(kind.name()));
        }
    }
    problems
}

/// Makes them all; we are in the user namespace of the root, whose id is `home`.
pub(super) fn make(images: &Images, home: u32) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    let mut made: Vec<(u32, OwnedFd)> = Vec::new();
    for entry in read(images)? {
        let parent = made.iter().find(|(id, _)| *id == entry.parent).map(|(_, fd)| fd.as_fd());
        if parent.is_none() && entry.parent != home {
            return Err(invalid(&STASIS_USERNS, 0, "a user namespace has no parent"));
        }
        let parents: Option<UsernsEntry> = images
            .has(&USERNS, entry.parent.into())
            .then(|| images.read_single(&USERNS, entry.parent.into()))
            .transpose()?;
        let group = parents.map_or(0, |maps| lowest(&maps.gid_map));
        let space = make_one(images, &entry, parent, group).while_trying_to("make a user namespace")?;
        made.push((entry.id, space));
    }
    Ok(made)
}

/// The lowest id of a map.
fn lowest(map: &[UidGidExtent]) -> u32 {
    map.iter().map(|extent| extent.first).min().unwrap_or(0)
}

/// What leads to all of them: whoever has made namespaces for the tree has made these as well; else we do, at home.
pub(super) fn there(tasks: &[Task], options: &RestoreOptions, images: &Images) -> Result<MadeFiles, Problem> {
    if !options.inside.types.is_empty() {
        return Ok(options.inside.users.clone());
    }
    let home = tasks.first().and_then(|root| root.alive.as_ref()?.ids.user_ns_id);
    make(images, home.unwrap_or_default()).map(MadeFiles::from)
}

/// User namespaces below that of the root that are there, and who is in which.
#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    /// What leads to them.
    pub made: MadeFiles,
    /// Where tasks and helpers are born that are not born in the root's: all in a pid namespace that belongs to one.
    born: HashMap<i32, (u32, Rc<BornBelow>)>,
    /// What all others have, if nobody in the root's may change groups.
    denied: Option<Rc<BornBelow>>,
    /// Which pid namespaces belong to which.
    pid_owners: HashMap<u32, u32>,
}

impl Users {
    /// All of them, which have been made.
    pub(super) fn of(
        made: MadeFiles,
        tasks: &[Task],
        options: &RestoreOptions,
        images: &Images,
    ) -> Result<Self, Problem> {
        let (entries, owners) = (read(images)?, Owners::read(images)?);
        let (mut born, mut of_inits) = (HashMap::new(), HashMap::new());
        for (pid, birth) in births(tasks, &owners) {
            let init = tasks.iter().find(|task| task.pid == birth.init);
            let creds = init.and_then(|init| init.core().thread_core.as_ref()?.creds.clone());
            let maps = maps_down_to(images, &entries, birth.user)?;
            let below = || Rc::new(BornBelow { ids: creds.unwrap_or_default(), maps });
            let below = Rc::clone(of_inits.entry(birth.init).or_insert_with(below));
            born.insert(pid, (birth.user, below));
        }
        let pids = owners.0.iter().filter(|(kind, ..)| *kind == NamespaceType::Pid);
        let pid_owners = pids.map(|(_, id, owner)| (*id, owner.id)).collect();
        let denied = groups_of_all(tasks, options, images)?.map(Rc::new);
        Ok(Self { made, born, denied, pid_owners })
    }

    /// What leads to one.
    pub(super) fn get(&self, id: u32) -> Option<BorrowedFd<'_>> {
        self.made.get(id)
    }

    /// Where somebody is born; none in that of the root.
    pub(super) fn born_in(&self, pid: i32) -> Option<u32> {
        self.born.get(&pid).map(|(user, _)| *user)
    }

    /// The user namespace that a pid namespace belongs to, if that is below the root's.
    pub(super) fn pid_owner(&self, space: u32) -> Option<u32> {
        self.pid_owners.get(&space).copied()
    }

    /// The user namespace that a task is in when it makes its threads, if that is below the root's.
    pub(super) fn where_threads_are_made(&self, task: &Task) -> Option<u32> {
        let own = task.alive.as_ref().and_then(|alive| alive.ids.user_ns_id);
        own.filter(|_| is_early(task) && self.of_task(task).is_some()).or_else(|| self.born_in(task.pid))
    }

    /// Takes note of a helper that somebody makes.
    pub(super) fn add_helper(&mut self, pid: i32, by: i32) {
        if let Some(born) = self.born.get(&by).cloned() {
            self.born.insert(pid, born);
        }
    }

    /// Forgets a helper.
    pub(super) fn forget(&mut self, helper: i32) {
        self.born.remove(&helper);
    }

    /// What somebody has had since birth, if that was below, or where nobody may change groups.
    pub(super) fn born_below(&self, pid: i32) -> Option<&BornBelow> {
        self.born.get(&pid).map(|(_, born)| born).or(self.denied.as_ref()).map(|born| &**born)
    }

    /// The user namespace that a task goes into; none if it stays in that in which it is born.
    fn of_task(&self, task: &Task) -> Option<BorrowedFd<'_>> {
        let id = task.alive.as_ref()?.ids.user_ns_id?;
        self.get(id).filter(|_| self.born_in(task.pid) != Some(id))
    }

    /// Whether it has no power any more over what is outside when it gets its threads.
    pub(super) fn is_below(&self, task: &Task) -> bool {
        self.born_in(task.pid).is_some() || (is_early(task) && self.of_task(task).is_some())
    }
}

/// The ids of root, with the groups that all stubs inherit, if nobody in the user namespace of the root may change them.
fn groups_of_all(
    tasks: &[Task],
    options: &RestoreOptions,
    images: &Images,
) -> Result<Option<BornBelow>, Problem> {
    let root = match tasks.first() {
        Some(root) if !options.inside.types.is_empty() => root.pid.to_string(),
        _ => "self".to_owned(),
    };
    let were_denied = home(images)?.is_some_and(|home| home.groups_denied());
    if !were_denied && !user::are_groups_denied(&root) {
        return Ok(None);
    }
    let status = read_proc(format!("/proc/{root}/status"), procfs::status::parse)?;
    let groups = status.groups.iter().map(|id| id_map::inside(&options.inside.ids.gids, *id)).collect();
    Ok(Some(BornBelow { ids: CredsEntry { groups, ..CredsEntry::default() }, maps: Vec::new() }))
}

/// Where somebody is born, and the init with whose ids.
#[derive(Debug, Clone, Copy)]
struct Birth {
    user: u32,
    init: i32,
}

/// Who is born below: the init of a pid namespace that belongs there, and all who descend from it.
fn births(tasks: &[Task], owners: &Owners) -> BTreeMap<i32, Birth> {
    let mut births: BTreeMap<i32, Birth> = BTreeMap::new();
    for task in tasks {
        let parent = task.parent.and_then(|parent| tasks.get(parent));
        let parents = parent.and_then(|parent| births.get(&parent.pid)).copied();
        let space = task.space().map(|space| space.ns_id).filter(|space| task.begins(*space));
        let owner = space.and_then(|space| owners.of(NamespaceType::Pid, space)).map(|owner| owner.id);
        let own = owner.filter(|owner| parents.is_none_or(|parents| parents.user != *owner));
        let birth = own.map(|user| Birth { user, init: task.pid }).or(parents);
        births.extend(birth.map(|birth| (task.pid, birth)));
    }
    births
}

/// Maps from the root's user namespace down to one.
fn maps_down_to(images: &Images, all: &[StasisUsernsEntry], id: u32) -> Result<Vec<IdMaps>, Problem> {
    let (mut maps, mut at) = (Vec::new(), all.iter().find(|entry| entry.id == id));
    while let Some(space) = at {
        let entry: UsernsEntry = images.read_single(&USERNS, space.id.into())?;
        maps.push(IdMaps { uids: user::ranges(&entry.uid_map), gids: user::ranges(&entry.gid_map) });
        at = all.iter().take_while(|other| other.id != space.id).find(|other| other.id == space.parent);
    }
    maps.reverse();
    Ok(maps)
}

fn make_one(
    images: &Images,
    entry: &StasisUsernsEntry,
    parent: Option<BorrowedFd<'_>>,
    group: u32,
) -> Result<OwnedFd, Problem> {
    let maps: UsernsEntry = images.read_single(&USERNS, entry.id.into())?;
    let go = || {
        if let Some(parent) = parent {
            namespace::enter(parent, libc::CLONE_NEWUSER)?;
        }
        let (user, group) = (Uid::from_raw(entry.owner), Gid::from_raw(group));
        nix::unistd::setresgid(group, group, group).map_err(SysError::of("setresgid"))?;
        nix::unistd::setresuid(user, user, user).map_err(SysError::of("setresuid"))?;
        unshare(NamespaceType::User)?;
        // Who writes the maps is to find its files its own.
        nix::sys::prctl::set_dumpable(true).map_err(SysError::of("prctl(PR_SET_DUMPABLE)"))?;
        own_name()
    };
    envoy::hold(go, |name| {
        let name = text(&name);
        match parent {
            None => write(&name, entry, &maps)?,
            Some(parent) => {
                let go = || {
                    namespace::enter(parent, libc::CLONE_NEWUSER)?;
                    write(&name, entry, &maps).map(|()| Vec::new())
                };
                envoy::fork(go)?;
            }
        }
        open(&name, NamespaceType::User)
    })
}

/// Has a fork of ours make a namespace in a user namespace, and hands out what leads there.
pub(crate) fn make_owned(owner: Option<BorrowedFd<'_>>, kind: NamespaceType) -> Result<OwnedFd, Problem> {
    let none = || invalid(&STASIS_USERNS, 0, "a namespace belongs to a user namespace that is not there");
    let owner = owner.ok_or_else(none)?;
    let go = || {
        namespace::enter(owner, libc::CLONE_NEWUSER)?;
        nix::sys::prctl::set_dumpable(true).map_err(SysError::of("prctl(PR_SET_DUMPABLE)"))?;
        unshare(kind)?;
        own_name()
    };
    envoy::hold(go, |name| open(&text(&name), kind)).while_trying_to("make a namespace of a user namespace")
}

fn unshare(kind: NamespaceType) -> Result<(), SysError> {
    let flag = nix::sched::CloneFlags::from_bits_retain(kind.clone_flag());
    nix::sched::unshare(flag).map_err(SysError::of("unshare"))
}

/// Our name in the procfs that is mounted here, which may be that of another pid namespace.
fn own_name() -> Result<Vec<u8>, Problem> {
    let name = std::fs::read_link("/proc/self").map_err(SysError::io("readlink"));
    Ok(name.about(|| Object::Path("/proc/self".into()))?.into_os_string().into_encoded_bytes())
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn open(name: &str, kind: NamespaceType) -> Result<OwnedFd, Problem> {
    Ok(visit::of(name, kind)?.into())
}

/// Writes what may be written once, in this order: groups can be denied as long as there is no map of them.
fn write(name: &str, entry: &StasisUsernsEntry, maps: &UsernsEntry) -> Result<(), Problem> {
    if entry.groups_denied() {
        user::deny_groups(name)?;
    }
    for (file, map) in [("uid_map", &maps.uid_map), ("gid_map", &maps.gid_map)] {
        if !map.is_empty() {
            user::write(name, file, map)?;
        }
    }
    Ok(())
}

/// Whether a task goes there before it has what it has: nobody may who has threads, and what is unshared belongs there.
pub(super) fn is_early(task: &Task) -> bool {
    task.threads.len() > 1 || task.core().own.pid_ns_for_children == Some(0)
}

/// Takes those there who must go before they have threads.
pub(super) fn enter(stubs: &mut Stubs, tasks: &[Task], users: &Users) -> Result<(), Problem> {
    for (task, stub) in tasks.iter().zip(&mut stubs.0).filter(|(task, _)| is_early(task)) {
        let Some(space) = users.of_task(task) else { continue };
        let mut batch = Batch::new();
        creds::add_ids(task.core(), users.born_below(task.pid), &mut batch);
        add_setns(&mut batch, space, libc::CLONE_NEWUSER);
        stub.run("go into its user namespace", &batch)?;
    }
    Ok(())
}

/// Hands a stub what it will go into with its credentials, and says under which number that is.
pub(super) fn hand_out(stub: &mut Stub, task: &Task, users: &Users) -> Result<UserSpaceEntry, Problem> {
    let Some(space) = users.of_task(task) else { return Ok(UserSpaceEntry::Stays) };
    if is_early(task) {
        return Ok(UserSpaceEntry::Done);
    }
    let mut batch = Batch::new();
    let fd = batch.fd(space);
    // Descriptors of the task are in their places, and this one is in nobody's way.
    let args = args![fd, libc::F_DUPFD_CLOEXEC, stub.agent_fd().unwrap_or(0) + 1];
    let kept = batch.call("fcntl(F_DUPFD_CLOEXEC)", libc::SYS_fcntl, args);
    batch.call("close", libc::SYS_close, args![fd]);
    let replies = stub.run("hand it its user namespace", &batch)?;
    Ok(UserSpaceEntry::By(replies.result(kept)? as i32))
}
