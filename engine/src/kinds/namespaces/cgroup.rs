//! Cgroup namespaces: which cgroup is shown as the root (cgroup_namespaces(7)).
//!
//! A new one has the cgroup of its maker as its root, which is that of the restore.

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::Problem;
use crate::image::NewImages;
use crate::procfs::link::NamespaceType;

/// Cgroup namespaces.
#[derive(Debug)]
pub struct CgroupNamespace;

impl NamespaceKind for CgroupNamespace {
    const NAME: &'static str = "cgroup-namespace";
    const NOT_SAVED: &'static [&'static str] =
        &["its root: it becomes the cgroup that the restore is run in"];
    const TYPE: NamespaceType = NamespaceType::Cgroup;

    fn dump(_cx: NamespaceDump<'_>, _images: &mut NewImages) -> Result<(), Problem> {
        Ok(())
    }

    fn restore(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
}
