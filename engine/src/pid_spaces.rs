//! Pid namespaces below that of a tree's root: what is started by `unshare --pid` in it, say (pid_namespaces(7)).
//!
//! We work with the numbers of the root's namespace, where every task of the tree has one; so do images. What a task itself
//! says or hears, in a system call that its agent makes, are numbers of its own namespace: those have a type of their own,
//! [`PidInside`]. `NSpid` of `/proc/PID/status` tells them.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use proto::messages::{StasisPidSpace, StasisThreadEntry};

use crate::dump::inspect::read_proc;
use crate::dump::namespace_links::NamespaceLinks;
use crate::error::{Class, Explain, Problem, SysError, TaskName};
use crate::kinds::files::FilesDump;
use crate::kinds::namespaces::{self, FIRST_FREE_ID};
use crate::mounts::procfs::Init;
use crate::options::DumpOptions;
use crate::procfs::link::NamespaceType;
use crate::procfs::status::Status;
use crate::sys::namespace;
use crate::tracee::batch::Arg;
use crate::tracee::freeze::task_name;
use crate::visit;

/// The init of every pid namespace.
const INIT: PidInside = PidInside(namespace::INIT);

/// The number that a task, thread, group or session has in a task's own pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PidInside(i32);

impl PidInside {
    /// A number that a task said, or is to hear.
    pub fn new(number: i32) -> Self {
        Self(number)
    }

    /// The last of the numbers that a line of `/proc/PID/status` tells; that in our namespace if there is none.
    pub fn innermost(numbers: &[i32], here: i32) -> Self {
        Self(numbers.last().copied().unwrap_or(here))
    }

    /// The own number of a thread that has `here` in our namespace, and these numbers if it is in one below.
    pub fn of(here: i32, below: Option<StasisPidSpace>) -> Self {
        Self(below.map_or(here, |space| space.tid.cast_signed()))
    }

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Whether it is the number of the init of a namespace.
    pub fn is_init(self) -> bool {
        self == INIT
    }
}

impl From<PidInside> for Arg {
    fn from(pid: PidInside) -> Self {
        Self::from(pid.number())
    }
}

/// The numbers that images have of a thread in namespaces below that of the root, the innermost first.
pub fn numbers_of(own: &StasisThreadEntry) -> impl Iterator<Item = StasisPidSpace> {
    own.pid_space.into_iter().chain(own.outer_pid_spaces.iter().copied())
}

/// How a task of a namespace, none for the root's, numbers another one, of whose thread this is the image.
pub fn seen_from(viewer: Option<u32>, seen: &StasisThreadEntry) -> PidInside {
    let own = numbers_of(seen).find(|space| Some(space.ns_id) == viewer);
    PidInside::of(seen.tid.cast_signed(), own)
}

/// Why a task's pid namespace cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum PidSpaceRefusal {
    /// A thread that went elsewhere alone.
    #[error("a thread of it would make its children in another pid namespace than its process")]
    Thread,
    /// Nobody of the tree is the init of a namespace.
    #[error("it is in, or makes its children in, a pid namespace whose init is none of the tree")]
    NoInit,
}

impl Explain for PidSpaceRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NoInit => Some("dump a tree that has the init of that namespace, too".into()),
            Self::Thread => None,
        }
    }
}

/// A pid namespace below that of the root.
#[derive(Debug)]
struct PidSpace {
    /// What the links in `/proc` say.
    link: PathBuf,
    /// Those that it is in, and itself, from the outermost on; empty if nobody asked yet.
    nested: Vec<u32>,
    /// Whoever led us to it first.
    found_by: Option<TaskName>,
    /// Its init, if that is of the tree.
    init: Option<i32>,
}

/// Those of a tree that is being dumped.
#[derive(Debug, Default)]
pub struct PidSpaces {
    /// Their ids in images begin with [`FIRST_FREE_ID`].
    all: Vec<PidSpace>,
    /// What the link of the root says, once it was read.
    roots: Option<PathBuf>,
}

/// The ids of a task's namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfTask {
    /// That it is in; none if it is that of the root.
    pub own: Option<u32>,
    /// All below that of the root that it has a number in, from the outermost on.
    nested: Vec<u32>,
    /// That its children would be in, if it is another one; 0 if that has no init yet.
    pub children: Option<u32>,
}

impl OfTask {
    /// Puts in what images hold of a thread with these numbers, the outermost first.
    pub fn number(&self, tids: &[i32], status: &Status, own: &mut StasisThreadEntry) {
        let at = |ids: &[i32], level: usize| ids.get(level).copied().unwrap_or(0).cast_unsigned();
        // Before those is the number in the namespace of the root.
        let levels = self.nested.iter().enumerate().map(|(level, ns_id)| StasisPidSpace {
            ns_id: *ns_id,
            tid: at(tids, level + 1),
            sid: Some(at(&status.ns_sid, level + 1)),
            pgid: Some(at(&status.ns_pgid, level + 1)),
        });
        let mut levels = levels.rev();
        own.pid_space = levels.next();
        own.outer_pid_spaces = levels.collect();
    }
}

/// The ids of a task's namespaces, which are new if they were not met before.
pub fn of_task(
    cx: &mut FilesDump<'_>,
    pid: i32,
    links: &NamespaceLinks,
    status: &Status,
) -> Result<OfTask, Problem> {
    let options = cx.options;
    cx.state::<PidSpaces>().of_task(options, pid, links, status)
}

/// The inits of all such namespaces among these tasks.
pub fn inits(root: i32, pids: &[i32]) -> Vec<Init> {
    let link = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let home = link(root);
    let apart = pids.iter().filter_map(|pid| Some(Init { pid: *pid, link: link(*pid)? }));
    let apart = apart.filter(|init| Some(&init.link) != home.as_ref());
    let is_init = |init: &Init| {
        let status = read_proc(format!("/proc/{}/status", init.pid), crate::procfs::status::parse);
        status.is_ok_and(|status| status.ns_pid.len() > 1 && status.ns_pid.last() == Some(&INIT.number()))
    };
    apart.filter(is_init).collect()
}

/// The id of the namespace that a link of `/proc` or of a descriptor names.
pub fn id_of_link(cx: &mut FilesDump<'_>, link: &Path) -> u32 {
    let options = cx.options;
    let spaces = cx.state::<PidSpaces>();
    let home = namespaces::ids_of_tree(&options.inside.types).pid_ns_id.unwrap_or_default();
    spaces.id(options, link, None).unwrap_or(home)
}

impl PidSpaces {
    /// The id of a namespace, which is new if it was not met before; none for that of the root.
    fn id(&mut self, options: &DumpOptions, link: &Path, found_by: Option<i32>) -> Option<u32> {
        if self.roots.is_none() {
            self.roots = std::fs::read_link(format!("/proc/{}/ns/pid", options.tree)).ok();
        }
        if self.roots.as_deref() == Some(link) {
            return None;
        }
        let at = self.all.iter().position(|space| space.link == link).unwrap_or_else(|| {
            let found_by = found_by.and_then(task_name);
            let (link, nested) = (link.to_owned(), Vec::new());
            self.all.push(PidSpace { link, nested, init: None, found_by });
            self.all.len() - 1
        });
        Some(FIRST_FREE_ID + at as u32)
    }

    fn of_task(
        &mut self,
        options: &DumpOptions,
        pid: i32,
        links: &NamespaceLinks,
        status: &Status,
    ) -> Result<OfTask, Problem> {
        let kind = NamespaceType::Pid;
        let refuse = |refusal| Err(Problem::new(refusal));
        if links.has_strayed_thread(kind) {
            return refuse(PidSpaceRefusal::Thread);
        }
        let Some(link) = links.of(kind) else { return Ok(OfTask::default()) };
        let own = self.id(options, link, Some(pid));
        let nested = match own {
            Some(own) => self.nested(options, pid, own, status.ns_pid.len())?,
            None => Vec::new(),
        };
        if let (Some(id), Some(INIT)) = (own, status.ns_pid.last().map(|last| PidInside(*last)))
            && let Some(space) = self.all.get_mut((id - FIRST_FREE_ID) as usize)
        {
            space.init = Some(pid);
        }
        // A zombie has none. The link is dangling as long as the namespace has no init.
        let is_elsewhere = !matches!(status.state, crate::procfs::stat::State::Zombie)
            && links.for_children(kind) != Some(link);
        let children = is_elsewhere.then(|| {
            links.for_children(kind).map_or(0, |link| self.id(options, link, Some(pid)).unwrap_or_default())
        });
        Ok(OfTask { own, nested, children })
    }

    /// All namespaces that one is in, and itself, from the outermost on; of so many levels, the first is that of the root.
    fn nested(
        &mut self,
        options: &DumpOptions,
        pid: i32,
        own: u32,
        levels: usize,
    ) -> Result<Vec<u32>, Problem> {
        let place = (own - FIRST_FREE_ID) as usize;
        if let Some(known) = self.all.get(place).filter(|space| !space.nested.is_empty()) {
            return Ok(known.nested.clone());
        }
        let (mut nested, mut space) = (vec![own], OwnedFd::from(visit::of(pid, NamespaceType::Pid)?));
        for _ in 2..levels {
            space = namespace::parent(&space)?;
            let ino = nix::sys::stat::fstat(&space).map_err(SysError::of("fstat"))?.st_ino;
            let link = PathBuf::from(format!("{}:[{ino}]", NamespaceType::Pid.name()));
            nested.extend(self.id(options, &link, Some(pid)));
        }
        nested.reverse();
        if let Some(space) = self.all.get_mut(place) {
            space.nested.clone_from(&nested);
        }
        Ok(nested)
    }

    /// A refusal for each namespace whose init is not of the tree, when all tasks were looked at.
    pub fn without_init(&self) -> Vec<Problem> {
        let without = self.all.iter().filter(|space| space.init.is_none());
        without
            .map(|space| {
                let problem = Problem::new(PidSpaceRefusal::NoInit);
                space.found_by.iter().fold(problem, Problem::task)
            })
            .collect()
    }

    /// Ids of all that were met.
    pub fn ids(&self) -> BTreeSet<u32> {
        (FIRST_FREE_ID..).take(self.all.len()).collect()
    }

    /// What leads to each, and its id.
    pub fn files(&self) -> impl Iterator<Item = (Result<File, Problem>, u32)> {
        let inits = self.all.iter().zip(FIRST_FREE_ID..).filter_map(|(space, id)| Some((space.init?, id)));
        inits.map(|(init, id)| (visit::of(init, NamespaceType::Pid), id))
    }

    /// What the link of a namespace says, and its id.
    pub fn links(&self) -> impl Iterator<Item = (&Path, u32)> {
        self.all.iter().map(|space| space.link.as_path()).zip(FIRST_FREE_ID..)
    }
}
