//! Pid namespaces (pid_namespaces(7)).
//!
//! Pids in images are those in the namespace of the tree's root, who is the init of it, and is born as such; we work inside
//! ourselves. Tasks of a namespace below it have two numbers (`crate::pid_spaces`).

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
    const NOT_SAVED: &'static [&'static str] = &[
        "kernel.pid_max of a namespace",
        "how the init of a namespace below the root's was killed, if not by SIGKILL",
    ];
    const TYPE: NamespaceType = NamespaceType::Pid;

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let ext_key = cx.options.namespaces.external_name(cx.root, Self::TYPE).map(str::to_owned);
        images.write(&PIDNS, cx.id.into(), &[PidnsEntry { ext_key }])
    }

    fn restore(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
}
