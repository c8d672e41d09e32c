//! Mount namespaces of a tree: that of its root, if the tree has it for itself, and those that only a part of it is in.
//!
//! Where the root is in the one that the command was called in, that one is *home*: it is neither kept nor restored, and what a
//! part has in common with it is found there again (`mounts/home.rs`, `restore/mount_spaces.rs`).

use std::path::{Path, PathBuf};

use crate::dump::namespace_links::NamespaceLinks;
use crate::kinds::files::FilesDump;
use crate::kinds::namespaces::{self, FIRST_FREE_ID};
use crate::procfs::link::NamespaceType;

/// A mount namespace that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpace {
    /// Its id in the images.
    pub id: u32,
    /// A task that is in it.
    pub pid: i32,
    /// What the link in `/proc` says.
    pub link: PathBuf,
}

/// Those of a tree that is being dumped.
#[derive(Debug, Default)]
pub struct MountSpaces {
    /// What the link of the root says, once it was read.
    roots: Option<PathBuf>,
    all: Vec<MountSpace>,
}

/// Takes note of the one that a task is in.
pub fn note(cx: &mut FilesDump<'_>, pid: i32, links: &NamespaceLinks) {
    let options = cx.options;
    let spaces = cx.state::<MountSpaces>();
    if spaces.roots.is_none() {
        let root = NamespaceLinks::of_process(&options.tree.to_string());
        let Some(link) = root.of(NamespaceType::Mnt).map(Path::to_owned) else { return };
        if options.inside.has(NamespaceType::Mnt) {
            let id = namespaces::ids_of_tree(&options.inside.types).mnt_ns_id.unwrap_or_default();
            spaces.all.push(MountSpace { id, pid: options.tree, link: link.clone() });
        }
        spaces.roots = Some(link);
    }
    // A zombie is in none.
    let Some(link) = links.of(NamespaceType::Mnt) else { return };
    if spaces.roots.as_deref() != Some(link) && spaces.all.iter().all(|known| known.link != link) {
        let id = FIRST_FREE_ID + spaces.beside_root().count() as u32;
        spaces.all.push(MountSpace { id, pid, link: link.to_owned() });
    }
}

impl MountSpaces {
    /// All that are kept, that of the root first if it is one of them.
    pub fn all(&self) -> &[MountSpace] {
        &self.all
    }

    /// Those that the root is not in.
    pub fn beside_root(&self) -> impl Iterator<Item = &MountSpace> {
        self.all.iter().filter(|space| self.roots.as_ref() != Some(&space.link))
    }
}
