//! Pid namespaces (pid_namespaces(7)).
//!
//! Pids in images are those inside. The root of the tree is the init of its namespace, and is born as such; we work inside
//! ourselves, so that nowhere else two numbers for the same task are of concern.

use proto::catalogue::PIDNS;
use proto::messages::PidnsEntry;

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::Problem;
use crate::image::NewImages;
use crate::procfs::link::NamespaceType;

/// Pid namespaces.
#[derive(Debug)]
pub struct PidNamespace;

impl NamespaceKind for PidNamespace {
    const NAME: &'static str = "pid-namespace";
    const NOT_SAVED: &'static [&'static str] =
        &["the pid that was given last", "kernel.pid_max of a namespace"];
    const TYPE: NamespaceType = NamespaceType::Pid;

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let ext_key = cx.options.namespaces.external_name(cx.root, Self::TYPE).map(str::to_owned);
        images.write(&PIDNS, cx.id.into(), &[PidnsEntry { ext_key }])
    }

    fn restore(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
}
