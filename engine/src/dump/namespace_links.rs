//! Which namespaces a process is in, by what the links in `/proc/PID/ns` say (`namespaces(7)`).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, open, readlinkat};
use nix::sys::stat::Mode;

use crate::procfs::link::NamespaceType;

/// What the links of a process say; none where one cannot be read.
#[derive(Debug, Default)]
pub struct Links {
    own: Vec<(NamespaceType, Option<PathBuf>)>,
    for_children: Vec<(NamespaceType, Option<PathBuf>)>,
}

impl Links {
    /// Reads those of a process, by its name in `/proc`.
    pub fn read(process: &str) -> Self {
        let dir = folder(&format!("/proc/{process}/ns"));
        let own = NamespaceType::ALL.map(|kind| (kind, link(dir.as_ref(), kind.name())));
        // It is dangling as long as a pid namespace has no init.
        let for_children = FOR_CHILDREN.map(|kind| (kind, link(dir.as_ref(), &for_children_name(kind))));
        Self { own: own.into(), for_children: for_children.into() }
    }
}

/// The namespaces of one process, and whether its threads are in them, too.
#[derive(Debug, Default)]
pub struct NamespaceLinks {
    /// Of the process; others may have the same.
    links: Arc<Links>,
    /// Types of which a thread has another one than its process.
    strayed: Vec<NamespaceType>,
}

/// Types whose namespace may be another one for the children of a process.
const FOR_CHILDREN: [NamespaceType; 2] = [NamespaceType::Pid, NamespaceType::Time];
/// Types that a thread alone may leave.
const OF_THREADS: [NamespaceType; 6] = [
    NamespaceType::Net,
    NamespaceType::Time,
    NamespaceType::Pid,
    NamespaceType::Uts,
    NamespaceType::Ipc,
    NamespaceType::Cgroup,
];

/// The name of the link that tells where children would be.
fn for_children_name(kind: NamespaceType) -> String {
    format!("{}_for_children", kind.name())
}

/// What the links of one thread say of the namespaces in which it could be apart from its process.
#[derive(Debug)]
pub struct ThreadLinks {
    own: [(NamespaceType, Option<PathBuf>); OF_THREADS.len()],
    for_children: [(NamespaceType, Option<PathBuf>); FOR_CHILDREN.len()],
}

impl ThreadLinks {
    /// Reads them.
    pub fn read(pid: i32, tid: i32) -> Self {
        let dir = folder(&format!("/proc/{pid}/task/{tid}/ns"));
        Self {
            own: OF_THREADS.map(|kind| (kind, link(dir.as_ref(), kind.name()))),
            for_children: FOR_CHILDREN.map(|kind| (kind, link(dir.as_ref(), &for_children_name(kind)))),
        }
    }

    /// A thread that has ended is in no namespace but that of its number.
    fn has_ended(&self) -> bool {
        link_of(&self.own, NamespaceType::Uts).is_none()
    }
}

fn folder(path: &str) -> Option<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

fn link(dir: Option<&OwnedFd>, name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(readlinkat(dir?, name).ok()?))
}

impl NamespaceLinks {
    /// Reads those of a process, by its name in `/proc`, and compares those of its threads.
    pub fn read(process: i32) -> Self {
        let mut links = Self::of_process(&process.to_string());
        let names = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
        let tids = names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok());
        let tids: Vec<i32> = tids.collect();
        // One alone is the process.
        if tids.len() > 1 {
            for tid in tids {
                links.compare(&ThreadLinks::read(process, tid));
            }
        }
        links
    }

    /// Reads those of a process, by its name in `/proc`; its threads are not looked at.
    pub fn of_process(process: &str) -> Self {
        Self::from(Arc::new(Links::read(process)))
    }

    /// Takes note of a thread that has another namespace than its process, for itself or for its children.
    pub fn compare(&mut self, thread: &ThreadLinks) {
        let has_ended = thread.has_ended();
        let strays = |link: &Option<PathBuf>, of_process: Option<&Path>| {
            link.as_deref() != of_process && (link.is_some() || !has_ended)
        };
        let own = thread.own.iter().filter(|(kind, link)| strays(link, self.of(*kind)));
        let for_children = thread.for_children.iter();
        let for_children = for_children.filter(|(kind, link)| strays(link, self.for_children(*kind)));
        let strayed: Vec<NamespaceType> = own.chain(for_children).map(|(kind, _)| *kind).collect();
        for kind in strayed {
            if !self.strayed.contains(&kind) {
                self.strayed.push(kind);
            }
        }
    }

    /// The namespace of one type.
    pub fn of(&self, kind: NamespaceType) -> Option<&Path> {
        link_of(&self.links.own, kind)
    }

    /// The namespace of one type in which its children would be.
    pub fn for_children(&self, kind: NamespaceType) -> Option<&Path> {
        link_of(&self.links.for_children, kind)
    }

    /// Whether a thread is in another namespace of a type than the process, or would make its children there.
    pub fn has_strayed_thread(&self, kind: NamespaceType) -> bool {
        self.strayed.contains(&kind)
    }
}

impl From<Arc<Links>> for NamespaceLinks {
    fn from(links: Arc<Links>) -> Self {
        Self { links, strayed: Vec::new() }
    }
}

fn link_of(links: &[(NamespaceType, Option<PathBuf>)], kind: NamespaceType) -> Option<&Path> {
    links.iter().find(|(known, _)| *known == kind).and_then(|(_, link)| link.as_deref())
}
