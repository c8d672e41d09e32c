//! User namespaces below that of a tree's root: what is made by `unshare -U`, or by a sandbox, in it (user_namespaces(7)).
//!
//! All ids in images are those of the root's user namespace, where every task of the tree has some; so what a namespace below maps,
//! and to what, matters to nobody but the tasks in it. Capabilities are those that a task has there.
//!
//! The kernel knows them as a tree (`NS_GET_PARENT`), so one that nobody is in any more is found as well. A fork of ours goes into each
//! to read its maps: what they map to is then told in ids of its parent, which is what a restore writes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use proto::catalogue::{STASIS_USERNS, USERNS};
use proto::messages::{StasisOwnedNamespace, StasisUsernsEntry, TaskKobjIdsEntry, UsernsEntry};

use crate::dump::inspect::{TaskFacts, ThreadFacts, read_proc};
use crate::dump::namespace_links::NamespaceLinks;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::files::FilesDump;
use crate::kinds::namespaces::{self, FIRST_FREE_ID, user};
use crate::made_files::MadeFiles;
use crate::mounts::envoy;
use crate::net_spaces::NetSpaces;
use crate::options::DumpOptions;
use crate::procfs;
use crate::procfs::id_map;
use crate::procfs::link::NamespaceType;
use crate::sys::namespace;
use crate::tracee::freeze::task_name;
use crate::visit;

/// Types of namespaces that may belong to one below the root's.
pub const OWNED: [NamespaceType; 5] =
    [NamespaceType::Uts, NamespaceType::Ipc, NamespaceType::Net, NamespaceType::Pid, NamespaceType::Mnt];

/// Why a user namespace cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum UserSpaceRefusal {
    /// It is none below the root's.
    #[error("it is in a user namespace that is not below that of the root of the tree")]
    NotBelow,
    /// Another namespace belongs to one of these.
    #[error(
        "its {0} namespace belongs to a user namespace below that of the root of the tree, which is not supported yet"
    )]
    Owned(&'static str),
    /// Nobody who shares a working directory may go into a user namespace.
    #[error(
        "it shares its root and working directory with pid {0}, and is in a user namespace below that of the root of the tree"
    )]
    SharesDirectories(i32),
    /// It shares something with somebody who is not there.
    #[error(
        "it shares its {0} with a task outside of its pid namespace, which belongs to a user namespace below that of the root"
    )]
    Shares(&'static str),
    /// Nobody who is born there may enter it.
    #[error(
        "its {0} namespace does not belong to the user namespace that its pid namespace belongs to, nor to one below that"
    )]
    Foreign(&'static str),
    /// A thread with other ids than the leader.
    #[error(
        "a thread of it has other ids than its leader, and it is in a user namespace below that of the root of the tree"
    )]
    Threads,
}

impl Explain for UserSpaceRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }
}

/// A user namespace.
#[derive(Debug)]
struct UserSpace {
    ino: u64,
    id: u32,
    parent: u32,
    /// What leads there, and to its parent, if that is not ours.
    file: File,
    parents: Option<File>,
}

/// Those of a tree that is being dumped, parents before their children.
#[derive(Debug, Default)]
pub struct UserSpaces {
    below: Vec<UserSpace>,
    /// The inode numbers of that of the root, and of ours.
    home: Option<[u64; 2]>,
    /// What links in `/proc` say of those that were met.
    known: HashMap<PathBuf, u32>,
    /// Namespaces of other types, by what their links say, whose owners are known.
    asked: HashSet<PathBuf>,
    /// Who owns what, if that is none of the root's.
    owned: Vec<(u32, NamespaceType, u32)>,
    members: Vec<Member>,
}

/// A task, and all ids that it has.
#[derive(Debug)]
struct Member {
    pid: i32,
    ids: TaskKobjIdsEntry,
}

impl Member {
    /// A problem that it stands in.
    fn problem(&self, refusal: UserSpaceRefusal) -> Problem {
        let problem = Problem::new(refusal);
        task_name(self.pid).iter().fold(problem, Problem::task)
    }
}

/// Those that a restore has made, for files that lead to them.
#[derive(Debug, Default)]
pub struct MadeUserSpaces(pub MadeFiles);

fn ino_of(file: &File) -> Result<u64, SysError> {
    Ok(file.metadata().map_err(SysError::io("fstat"))?.ino())
}

/// Puts the id of a task's user namespace in, and learns who owns its others, whose ids are there.
pub fn of_task(
    cx: &mut FilesDump<'_>,
    pid: i32,
    links: &NamespaceLinks,
    ids: &mut TaskKobjIdsEntry,
    problems: &mut Vec<Problem>,
) -> Result<(), Problem> {
    let options = cx.options;
    cx.state::<UserSpaces>().of_task(options, pid, links, ids, problems)
}

/// The id of the user namespace that a descriptor leads to.
pub fn id_of_descriptor(cx: &mut FilesDump<'_>, file: File) -> Result<u32, Problem> {
    let options = cx.options;
    cx.state::<UserSpaces>().id(options, file)
}

/// Learns who owns the network namespaces of a tree, and tells what of all that stands in the way.
pub fn check(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
    let options = cx.options;
    let nets = std::mem::take(cx.state::<NetSpaces>());
    let spaces = cx.state::<UserSpaces>();
    for net in nets.0.iter().skip(1) {
        problems.extend(spaces.learn_owner(options, NamespaceType::Net, net.id, &net.file).err());
    }
    let home = namespaces::ids_of_tree(&options.inside.types);
    problems.extend(spaces.refuse_shared(&home));
    problems.extend(spaces.refuse_born_below(&home));
    *cx.state::<NetSpaces>() = nets;
}

/// A refusal of a task below whose threads have other ids than it: only before it goes there, ids can be set that have no place
/// in the maps.
pub fn refuse_threads(facts: &TaskFacts, options: &DumpOptions, ids: &TaskKobjIdsEntry) -> Option<Problem> {
    let of = |thread: &ThreadFacts| {
        let status = &thread.status;
        (status.uid, status.gid, status.groups.clone())
    };
    let home = namespaces::ids_of_tree(&options.inside.types).user_ns_id;
    let leaders = of(facts.leader());
    let is_apart = ids.user_ns_id != home && facts.threads.iter().any(|thread| of(thread) != leaders);
    is_apart.then(|| Problem::new(UserSpaceRefusal::Threads))
}

impl UserSpaces {
    /// The inode numbers of the user namespace of the root, and of ours.
    fn home(&mut self, options: &DumpOptions) -> Result<[u64; 2], Problem> {
        if let Some(home) = self.home {
            return Ok(home);
        }
        let ours = ino_of(&visit::here(NamespaceType::User)?)?;
        let home = [ino_of(&visit::of(options.tree, NamespaceType::User)?)?, ours];
        self.home = Some(home);
        Ok(home)
    }

    /// The id of a namespace, which is new if it was not met before.
    fn id(&mut self, options: &DumpOptions, file: File) -> Result<u32, Problem> {
        let ([home, ours], ino) = (self.home(options)?, ino_of(&file)?);
        if ino == home {
            let ids = namespaces::ids_of_tree(&options.inside.types);
            return Ok(ids.user_ns_id.unwrap_or_default());
        }
        if let Some(known) = self.below.iter().find(|space| space.ino == ino) {
            return Ok(known.id);
        }
        // The kernel lets them be 32 deep, and shows none above ours.
        let parents = match namespace::parent(&file) {
            Ok(parents) if ino != ours => File::from(parents),
            _ => return Err(Problem::new(UserSpaceRefusal::NotBelow)),
        };
        let parents_ino = ino_of(&parents)?;
        let parent = self.id(options, parents.try_clone().map_err(SysError::io("dup"))?)?;
        let id = FIRST_FREE_ID + self.below.len() as u32;
        let parents = (parents_ino != ours).then_some(parents);
        self.below.push(UserSpace { ino, id, parent, file, parents });
        Ok(id)
    }

    fn of_task(
        &mut self,
        options: &DumpOptions,
        pid: i32,
        links: &NamespaceLinks,
        ids: &mut TaskKobjIdsEntry,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Problem> {
        let home = namespaces::ids_of_tree(&options.inside.types);
        let Some(link) = links.of(NamespaceType::User) else { return Ok(()) };
        let id = match self.known.get(link) {
            Some(id) => *id,
            None => self.id(options, visit::of(pid, NamespaceType::User)?)?,
        };
        self.known.insert(link.to_owned(), id);
        ids.user_ns_id = Some(id);
        self.members.push(Member { pid, ids: *ids });
        for kind in NamespaceType::ALL.into_iter().filter(|kind| *kind != NamespaceType::User) {
            let (Some(link), Some(id)) = (links.of(kind), namespaces::id(ids, kind)) else { continue };
            // The network namespaces of sockets are asked later, with all others of that type.
            if Some(id) == namespaces::id(&home, kind)
                || kind == NamespaceType::Net
                || !self.asked.insert(link.to_owned())
            {
                continue;
            }
            let file = visit::of(pid, kind)?;
            problems.extend(self.learn_owner(options, kind, id, &file).err());
        }
        // One that only children will be in has an owner as well.
        let kind = NamespaceType::Time;
        let for_children = links.for_children(kind).filter(|link| links.of(kind) != Some(link));
        if let Some(link) = for_children
            && self.asked.insert(link.to_owned())
        {
            let file = visit::of_children(pid, kind)?;
            problems.extend(self.learn_owner(options, kind, 0, &file).err());
        }
        Ok(())
    }

    fn learn_owner(
        &mut self,
        options: &DumpOptions,
        kind: NamespaceType,
        id: u32,
        file: &File,
    ) -> Result<(), Problem> {
        let owner = File::from(namespace::owning_user_namespace(file)?);
        // One of outside belongs to somebody outside.
        let Ok(owner) = self.id(options, owner) else { return Ok(()) };
        let home = namespaces::ids_of_tree(&options.inside.types).user_ns_id;
        if Some(owner) == home {
            return Ok(());
        }
        if !OWNED.contains(&kind) {
            return Err(Problem::new(UserSpaceRefusal::Owned(kind.name())));
        }
        self.owned.push((owner, kind, id));
        Ok(())
    }

    /// Refusals of tasks below that share what nobody may share who goes into a user namespace.
    fn refuse_shared(&self, home: &TaskKobjIdsEntry) -> Vec<Problem> {
        let below = self.members.iter().filter(|member| member.ids.user_ns_id != home.user_ns_id);
        let refusal = |member: &Member| {
            let shares = |other: &&Member| other.ids.fs_id == member.ids.fs_id && other.pid != member.pid;
            let other = self.members.iter().find(shares)?;
            Some(member.problem(UserSpaceRefusal::SharesDirectories(other.pid)))
        };
        below.filter_map(refusal).collect()
    }

    /// Refusals of tasks that are born in such a user namespace, since their pid namespace belongs to it.
    fn refuse_born_below(&self, home: &TaskKobjIdsEntry) -> Vec<Problem> {
        let owns = |kind, id| self.owned.iter().any(|(_, known, own)| (*known, Some(*own)) == (kind, id));
        let mut problems = Vec::new();
        for member in self.members.iter().filter(|member| owns(NamespaceType::Pid, member.ids.pid_ns_id)) {
            let ids = &member.ids;
            let mut refuse = |refusal| problems.push(member.problem(refusal));
            let others = || self.members.iter().filter(|other| other.ids.pid_ns_id != ids.pid_ns_id);
            if others().any(|other| other.ids.vm_id == ids.vm_id) {
                refuse(UserSpaceRefusal::Shares("address space"));
            }
            if others().any(|other| other.ids.files_id == ids.files_id) {
                refuse(UserSpaceRefusal::Shares("descriptors"));
            }
            let apart = |kind: &NamespaceType| {
                let id = namespaces::id(ids, *kind);
                *kind != NamespaceType::User && id != namespaces::id(home, *kind) && !owns(*kind, id)
            };
            for kind in NamespaceType::ALL.into_iter().filter(apart) {
                refuse(UserSpaceRefusal::Foreign(kind.name()));
            }
        }
        problems
    }

    /// What is kept of that of the root, if it is its own and nobody in it may change groups.
    fn of_root(options: &DumpOptions) -> Result<Option<StasisUsernsEntry>, Problem> {
        let root = options.tree.to_string();
        if !options.inside.has(NamespaceType::User) || !user::are_groups_denied(&root) {
            return Ok(None);
        }
        let status = read_proc(format!("/proc/{root}/status"), procfs::status::parse)?;
        Ok(Some(StasisUsernsEntry {
            id: namespaces::ids_of_tree(&options.inside.types).user_ns_id.unwrap_or_default(),
            owner: namespace::owner(visit::of(&root, NamespaceType::User)?)?,
            groups_denied: Some(true),
            groups: status.groups,
            ..StasisUsernsEntry::default()
        }))
    }

    /// Writes the images of all of them.
    pub fn write(&self, options: &DumpOptions, images: &mut NewImages) -> Result<(), Problem> {
        let mut entries: Vec<StasisUsernsEntry> = Self::of_root(options)?.into_iter().collect();
        if self.below.is_empty() && entries.is_empty() {
            return Ok(());
        }
        for space in &self.below {
            let (entry, maps) = space.read().while_trying_to("look into a user namespace")?;
            let owned = self.owned.iter().filter(|(owner, ..)| *owner == space.id);
            let owned = owned.map(|(_, kind, id)| StasisOwnedNamespace {
                r#type: kind.clone_flag().cast_unsigned(),
                id: *id,
            });
            entries.push(StasisUsernsEntry { owned: owned.collect(), ..entry });
            images.write(&USERNS, space.id.into(), &[maps])?;
        }
        images.write(&STASIS_USERNS, 0, &entries)
    }
}

impl UserSpace {
    /// Reads it from within: what it maps to is told in the ids of its parent there.
    fn read(&self) -> Result<(StasisUsernsEntry, UsernsEntry), Problem> {
        let told = envoy::fork(|| {
            if let Some(parents) = &self.parents {
                namespace::enter(parents, libc::CLONE_NEWUSER)?;
            }
            let owner = namespace::owner(&self.file)?;
            namespace::enter(&self.file, libc::CLONE_NEWUSER)?;
            let read = |name: &str| {
                let path = format!("/proc/self/{name}");
                std::fs::read_to_string(&path)
                    .map_err(SysError::io("read"))
                    .about(|| Object::Path(path.into()))
            };
            let parts = [owner.to_string(), read("setgroups")?, read("uid_map")?, read("gid_map")?];
            Ok(parts.join("\0").into_bytes())
        })?;
        let mut parts = told.split(|byte| *byte == 0);
        let mut next = || parts.next().unwrap_or_default();
        let owner = std::str::from_utf8(next()).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
        let groups_denied = next().starts_with(b"deny").then_some(true);
        let [uids, gids] = [next(), next()].map(id_map::parse);
        let maps = UsernsEntry { uid_map: user::extents(&uids?), gid_map: user::extents(&gids?) };
        let entry = StasisUsernsEntry {
            id: self.id,
            parent: self.parent,
            owner,
            groups_denied,
            ..StasisUsernsEntry::default()
        };
        Ok((entry, maps))
    }
}
