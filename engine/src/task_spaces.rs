//! Namespaces of host names, System V objects and control groups that only a part of a tree is in.
//!
//! Each has the id in images that its tasks have for it, and is looked at by going there for the moment: the kinds that do so
//! for the root's (`kinds/namespaces`) know of no others. A restore has the first task of each make it
//! (`restore/task_spaces.rs`).

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use proto::messages::TaskKobjIdsEntry;

use crate::dump::namespace_links::NamespaceLinks;
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::NAMESPACE_KINDS;
use crate::kinds::files::FilesDump;
use crate::kinds::namespaces::{self, FIRST_FREE_ID, NamespaceDump};
use crate::options::DumpOptions;
use crate::procfs::link::NamespaceType;
use crate::visit::{self, Visit};

/// The types that are kept in this way.
pub const TYPES: [NamespaceType; 3] = [NamespaceType::Uts, NamespaceType::Ipc, NamespaceType::Cgroup];

/// Why a namespace cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum TaskSpaceRefusal {
    /// A thread that went elsewhere alone.
    #[error("a thread of it is in another {0} namespace than its process, which is not supported yet")]
    Thread(&'static str),
    /// A descriptor leads to it, and nothing else.
    #[error("a descriptor leads to a {0} namespace that no task of the tree is in")]
    Empty(&'static str),
}

impl Explain for TaskSpaceRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Thread(_) => None,
            Self::Empty(_) => Some("close it first".into()),
        }
    }
}

/// A namespace beside that of the root.
#[derive(Debug)]
struct Space {
    kind: NamespaceType,
    /// What the links in `/proc` say.
    link: PathBuf,
    id: u32,
    /// What leads to it, and a task that is in it; none as long as only descriptors were met.
    member: Option<(File, i32)>,
}

/// Those of a tree that is being dumped.
#[derive(Debug, Default)]
pub struct TaskSpaces {
    others: Vec<Space>,
    /// What the links of the root say, once they were read.
    roots: Option<NamespaceLinks>,
    /// Ids of ipc namespaces beside the root's, by the tasks that are there.
    ipc: HashMap<i32, u32>,
}

/// Puts the ids of a task's namespaces in; they are new if they were not met before.
pub fn of_task(
    cx: &mut FilesDump<'_>,
    pid: i32,
    links: &NamespaceLinks,
    ids: &mut TaskKobjIdsEntry,
) -> Result<(), Problem> {
    let options = cx.options;
    let spaces = cx.state::<TaskSpaces>();
    for kind in TYPES {
        if links.has_strayed_thread(kind) {
            return Err(Problem::new(TaskSpaceRefusal::Thread(kind.name())));
        }
        let Some(at) = links.of(kind).and_then(|link| spaces.find(options, kind, link)) else { continue };
        let Some(space) = spaces.others.get_mut(at) else { continue };
        *namespaces::id_mut(ids, kind) = Some(space.id);
        if space.member.is_none() {
            space.member = Some((visit::of(pid, kind)?, pid));
        }
        if kind == NamespaceType::Ipc {
            let id = space.id;
            spaces.ipc.insert(pid, id);
        }
    }
    Ok(())
}

/// The id of the namespace that a descriptor leads to.
pub fn id_of_link(cx: &mut FilesDump<'_>, kind: NamespaceType, link: &Path) -> u32 {
    let options = cx.options;
    let home = namespaces::id(&namespaces::ids_of_tree(&options.inside.types), kind);
    let spaces = cx.state::<TaskSpaces>();
    let at = spaces.find(options, kind, link);
    let own = at.and_then(|at| spaces.others.get(at)).map(|space| space.id);
    own.or(home).unwrap_or_default()
}

impl TaskSpaces {
    /// The place of a namespace, which is new if it was not met before; none for that of the root.
    fn find(&mut self, options: &DumpOptions, kind: NamespaceType, link: &Path) -> Option<usize> {
        let roots = self.roots.get_or_insert_with(|| NamespaceLinks::of_process(&options.tree.to_string()));
        if roots.of(kind) == Some(link) {
            return None;
        }
        let known = self.others.iter().position(|space| space.kind == kind && space.link == link);
        Some(known.unwrap_or_else(|| {
            let of_kind = self.others.iter().filter(|space| space.kind == kind).count();
            let id = FIRST_FREE_ID + of_kind as u32;
            self.others.push(Space { kind, link: link.to_owned(), id, member: None });
            self.others.len() - 1
        }))
    }

    /// A refusal for each namespace that no task is in, when all tasks were looked at.
    pub fn without_members(&self) -> Vec<Problem> {
        let without = self.others.iter().filter(|space| space.member.is_none());
        without.map(|space| Problem::new(TaskSpaceRefusal::Empty(space.kind.name()))).collect()
    }

    /// The id of the ipc namespace that a task is in, if that is not the root's.
    pub fn ipc_of(&self, pid: i32) -> Option<u32> {
        self.ipc.get(&pid).copied()
    }

    /// Ids of all ipc namespaces beside the root's.
    pub fn all_ipc(&self) -> Vec<u32> {
        let is_ipc = |space: &&Space| space.kind == NamespaceType::Ipc;
        self.others.iter().filter(is_ipc).map(|space| space.id).collect()
    }

    /// Goes into one of these.
    pub fn visit(&self, kind: NamespaceType, id: u32) -> Result<Option<Visit>, SysError> {
        let space = self.others.iter().find(|space| space.kind == kind && space.id == id);
        let file = space.and_then(|space| space.member.as_ref());
        file.map(|(file, _)| Visit::pay(file, kind)).transpose()
    }

    /// Writes the images of all of them.
    pub fn write(&self, options: &DumpOptions, pids: &[i32], images: &mut NewImages) -> Result<(), Problem> {
        for space in &self.others {
            let kind = NAMESPACE_KINDS.iter().find(|kind| kind.namespace_type() == space.kind);
            let (Some(kind), Some((file, member))) = (kind, &space.member) else { continue };
            let _there = Visit::pay(file, space.kind).while_trying_to("look into a namespace")?;
            let (root, id) = (*member, space.id);
            kind.dump(NamespaceDump { options, root, pids, id, spaces: &[], mounts: &[] }, images)?;
        }
        Ok(())
    }
}

/// Which namespaces the living tasks of the images are in, the root's first.
#[derive(Debug, Default)]
pub struct Members {
    roots: Option<TaskKobjIdsEntry>,
    tasks: Vec<(i32, TaskKobjIdsEntry)>,
}

impl Members {
    /// Those of tasks in the order of the images, by their pids; zombies have no ids.
    pub fn new(tasks: impl IntoIterator<Item = (i32, Option<TaskKobjIdsEntry>)>) -> Self {
        let mut tasks = tasks.into_iter().peekable();
        let roots = tasks.peek().and_then(|(_, ids)| *ids);
        Self { roots, tasks: tasks.filter_map(|(pid, ids)| Some((pid, ids?))).collect() }
    }

    /// The first task that is in a namespace.
    pub fn of(&self, kind: NamespaceType, id: u32) -> Option<i32> {
        let is_there = |ids: &TaskKobjIdsEntry| namespaces::id(ids, kind) == Some(id);
        self.tasks.iter().find(|(_, ids)| is_there(ids)).map(|(pid, _)| *pid)
    }

    /// Ids of the namespaces of a type that tasks are in, but not the root.
    pub fn beside_root(&self, kind: NamespaceType) -> BTreeSet<u32> {
        let roots = self.roots.as_ref().and_then(|ids| namespaces::id(ids, kind));
        let ids = self.tasks.iter().filter_map(|(_, ids)| namespaces::id(ids, kind));
        ids.filter(|id| Some(*id) != roots).collect()
    }

    /// Goes into the namespace of a type that a restored task is in, if its id is none that the root has.
    pub fn visit(&self, kind: NamespaceType, id: Option<u32>) -> Result<Option<Visit>, Problem> {
        let Some(id) = id else { return Ok(None) };
        let none = SysError { call: "find who is in a namespace", errno: nix::errno::Errno::ESRCH };
        let member = self.of(kind, id).ok_or_else(|| Problem::new(none))?;
        Ok(Some(Visit::pay(visit::of(member, kind)?, kind)?))
    }
}
