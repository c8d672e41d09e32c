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
    /// Whether a thread is in another network namespace than the process.
    pub has_strayed_thread: bool,
}

/// Types whose namespace may be another one for the children of a process.
const FOR_CHILDREN: [NamespaceType; 2] = [NamespaceType::Pid, NamespaceType::Time];

impl NamespaceLinks {
    /// Reads those of a process, by its name in `/proc`.
    pub fn read(process: &str) -> Self {
        let folder = |path: String| {
            open(path.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
        };
        let dir = folder(format!("/proc/{process}/ns"));
        let link = |dir: Option<&OwnedFd>, name: &str| Some(PathBuf::from(readlinkat(dir?, name).ok()?));
        let own = NamespaceType::ALL.map(|kind| (kind, link(dir.as_ref(), kind.name())));
        let for_children = FOR_CHILDREN.map(|kind| {
            // It is dangling as long as a pid namespace has no init.
            (kind, link(dir.as_ref(), &format!("{}_for_children", kind.name())))
        });
        let mut links =
            Self { own: own.into(), for_children: for_children.into(), has_strayed_thread: false };
        let tasks = format!("/proc/{process}/task");
        let threads: Vec<_> =
            std::fs::read_dir(&tasks).into_iter().flatten().filter_map(Result::ok).collect();
        // One alone is the process. One that ends meanwhile is in none.
        let dir = folder(tasks).filter(|_| threads.len() > 1);
        links.has_strayed_thread = dir.is_some_and(|dir| {
            let net = links.of(NamespaceType::Net);
            let of_thread = |name: &Path| Some(PathBuf::from(readlinkat(&dir, &name.join("ns/net")).ok()?));
            let others = threads.iter().filter_map(|thread| of_thread(Path::new(&thread.file_name())));
            others.into_iter().any(|other| Some(other.as_path()) != net)
        });
        links
    }

    /// The namespace of one type.
    pub fn of(&self, kind: NamespaceType) -> Option<&Path> {
        self.own.iter().find(|(own, _)| *own == kind).and_then(|(_, link)| link.as_deref())
    }

    /// A type of which children will be in another namespace.
    pub fn other_for_children(&self) -> Option<NamespaceType> {
        let other = |(kind, link): &&(NamespaceType, Option<PathBuf>)| link.as_deref() != self.of(*kind);
        self.for_children.iter().find(other).map(|(kind, _)| *kind)
    }
}
