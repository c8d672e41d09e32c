//! Pid namespaces below that of a tree's root: what is started by `unshare --pid` in it, say (pid_namespaces(7)).
//!
//! We work with the numbers of the root's namespace, where every task of the tree has one; so do images. What a task itself
//! says or hears, in a system call that its agent makes, are numbers of its own namespace: those have a type of their own,
//! [`PidInside`]. `NSpid` of `/proc/PID/status` tells them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proto::messages::StasisPidSpace;

use crate::dump::inspect::read_proc;
use crate::dump::namespace_links::NamespaceLinks;
use crate::error::{Class, Explain, Problem, TaskName};
use crate::kinds::files::FilesDump;
use crate::kinds::namespaces::{self, FIRST_FREE_ID};
use crate::mounts::procfs::Init;
use crate::options::DumpOptions;
use crate::procfs::link::NamespaceType;
use crate::procfs::status::Status;
use crate::tracee::batch::Arg;
use crate::tracee::freeze::task_name;

/// The init of every pid namespace.
const INIT: PidInside = PidInside(crate::sys::namespace::INIT);

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

/// How a task numbers another one, which has `here` in our namespace; `viewer` and `space` are their numbers below that.
pub fn seen_from(viewer: Option<StasisPidSpace>, here: i32, space: Option<StasisPidSpace>) -> PidInside {
    if viewer.is_none() { PidInside(here) } else { PidInside::of(here, space) }
}

/// Why a task's pid namespace cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum PidSpaceRefusal {
    /// Two levels below the root.
    #[error("it is in a pid namespace {0} levels below that of the root of the tree; only one is supported")]
    Deep(usize),
    /// It would have children two levels below.
    #[error("its children will be in a pid namespace two levels below that of the root of the tree")]
    DeepChildren,
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
            _ => None,
        }
    }
}

/// A pid namespace below that of the root.
#[derive(Debug)]
struct PidSpace {
    /// What the links in `/proc` say.
    link: PathBuf,
    /// Whoever led us to it first.
    found_by: Option<TaskName>,
    has_init: bool,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfTask {
    /// That it is in; none if it is that of the root.
    pub own: Option<u32>,
    /// That its children would be in, if it is another one; 0 if that has no init yet.
    pub children: Option<u32>,
}

impl OfTask {
    /// What images hold of a thread with this number.
    pub fn numbers(&self, tid: PidInside, status: &Status) -> Option<StasisPidSpace> {
        let own = |ids: &[i32]| ids.last().copied().unwrap_or(0).cast_unsigned();
        Some(StasisPidSpace {
            ns_id: self.own?,
            tid: tid.number().cast_unsigned(),
            sid: Some(own(&status.ns_sid)),
            pgid: Some(own(&status.ns_pgid)),
        })
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
            self.all.push(PidSpace { link: link.to_owned(), found_by, has_init: false });
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
        let Some(link) = links.of(kind) else { return Ok(OfTask { own: None, children: None }) };
        let own = self.id(options, link, Some(pid));
        if status.ns_pid.len() > 2 {
            return refuse(PidSpaceRefusal::Deep(status.ns_pid.len() - 1));
        }
        if let (Some(id), Some(INIT)) = (own, status.ns_pid.last().map(|last| PidInside(*last)))
            && let Some(space) = self.all.get_mut((id - FIRST_FREE_ID) as usize)
        {
            space.has_init = true;
        }
        // A zombie has none. The link is dangling as long as the namespace has no init.
        let is_elsewhere = !matches!(status.state, crate::procfs::stat::State::Zombie)
            && links.for_children(kind) != Some(link);
        let children = is_elsewhere.then(|| {
            links.for_children(kind).map_or(0, |link| self.id(options, link, Some(pid)).unwrap_or_default())
        });
        if own.is_some() && children.is_some() {
            return refuse(PidSpaceRefusal::DeepChildren);
        }
        Ok(OfTask { own, children })
    }

    /// A refusal for each namespace whose init is not of the tree, when all tasks were looked at.
    pub fn without_init(&self) -> Vec<Problem> {
        let without = self.all.iter().filter(|space| !space.has_init);
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

    /// What the link of a namespace says, and its id.
    pub fn links(&self) -> impl Iterator<Item = (&Path, u32)> {
        self.all.iter().map(|space| space.link.as_path()).zip(FIRST_FREE_ID..)
    }
}
