//! Cgroup namespaces: which cgroup is shown as the root (cgroup_namespaces(7)).
//!
//! A new one has the group of its maker as its root. So the root of the tree is moved there first, from outside, and makes
//! it then; its members go where they belong later (`crate::cgroups`).

use nix::sched::CloneFlags;

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Problem, SysError};
use crate::image::NewImages;
use crate::procfs::link::NamespaceType;

/// Cgroup namespaces.
#[derive(Debug)]
pub struct CgroupNamespace;

impl NamespaceKind for CgroupNamespace {
    const NAME: &'static str = "cgroup-namespace";
    const TYPE: NamespaceType = NamespaceType::Cgroup;

    fn dump(_cx: NamespaceDump<'_>, _images: &mut NewImages) -> Result<(), Problem> {
        Ok(())
    }

    fn restore(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        let made = nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP);
        Ok(made.map_err(SysError::of("unshare(CLONE_NEWCGROUP)"))?)
    }
}
