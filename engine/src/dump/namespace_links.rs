//! Which namespaces a process is in, by what the links in `/proc/PID/ns` say (`namespaces(7)`).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, readlinkat};
use nix::sys::stat::Mode;

use crate::procfs::link::NamespaceType;

/// What the links of one process say; none where one cannot be read.
#[derive(Debug, Default)]
pub struct NamespaceLinks {
    own: Vec<(NamespaceType, Option<PathBuf>)>,
    for_children: Vec<(NamespaceType, Option<PathBuf>)>,
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

impl NamespaceLinks {
    /// Reads those of a process, by its name in `/proc`.
    pub fn read(process: &str) -> Self {
        let folder = |path: String| {
            open(path.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
        };
        let dir = folder(format!("/proc/{process}/ns"));
        let link = |dir: Option<&OwnedFd>, name: &str| Some(PathBuf::from(readlinkat(dir?, name).ok()?));
        let own = NamespaceType::ALL.map(|kind| (kind, link(dir.as_ref(), kind.name())));
        // It is dangling as long as a pid namespace has no init.
        let for_children = FOR_CHILDREN.map(|kind| (kind, link(dir.as_ref(), &for_children_name(kind))));
        let mut links = Self { own: own.into(), for_children: for_children.into(), strayed: Vec::new() };
        let tasks = format!("/proc/{process}/task");
        let threads: Vec<_> =
            std::fs::read_dir(&tasks).into_iter().flatten().filter_map(Result::ok).collect();
        // One alone is the process.
        let Some(dir) = folder(tasks).filter(|_| threads.len() > 1) else { return links };
        let strays = |kind: &NamespaceType| {
            threads.iter().any(|thread| links.strays(&dir, Path::new(&thread.file_name()), *kind))
        };
        links.strayed = OF_THREADS.into_iter().filter(strays).collect();
        links
    }

    /// Whether a thread has another one than its process, for itself or for its children. One that has ended is in none but
    /// a pid namespace.
    fn strays(&self, tasks: &OwnedFd, thread: &Path, kind: NamespaceType) -> bool {
        let other = |name: &str, own: Option<&Path>| {
            let read = |name: &str| readlinkat(tasks, &thread.join("ns").join(name)).ok().map(PathBuf::from);
            let link = read(name);
            link.as_deref() != own && (link.is_some() || read(NamespaceType::Uts.name()).is_some())
        };
        other(kind.name(), self.of(kind))
            || (FOR_CHILDREN.contains(&kind) && other(&for_children_name(kind), self.for_children(kind)))
    }

    /// The namespace of one type.
    pub fn of(&self, kind: NamespaceType) -> Option<&Path> {
        link_of(&self.own, kind)
    }

    /// The namespace of one type in which its children would be.
    pub fn for_children(&self, kind: NamespaceType) -> Option<&Path> {
        link_of(&self.for_children, kind)
    }

    /// Whether a thread is in another namespace of a type than the process, or would make its children there.
    pub fn has_strayed_thread(&self, kind: NamespaceType) -> bool {
        self.strayed.contains(&kind)
    }
}

fn link_of(links: &[(NamespaceType, Option<PathBuf>)], kind: NamespaceType) -> Option<&Path> {
    links.iter().find(|(known, _)| *known == kind).and_then(|(_, link)| link.as_deref())
}
