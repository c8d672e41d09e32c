//! Namespaces in which a task is apart from the root of its tree, and which cannot be kept for it alone.

use super::namespace_links::NamespaceLinks;
use super::task::RelationRefusal;
use crate::error::Problem;
use crate::options::DumpOptions;
use crate::procfs::link::NamespaceType;
use crate::task_spaces;

/// What tasks of a tree are compared with: the namespaces that we are in, or that the root is in, for whose sake we went
/// there.
#[derive(Debug)]
pub(crate) struct HomeLinks {
    ours: NamespaceLinks,
    roots: NamespaceLinks,
}

impl HomeLinks {
    /// Reads them.
    pub(crate) fn read(options: &DumpOptions) -> Self {
        let roots = if options.inside.types.is_empty() {
            NamespaceLinks::default()
        } else {
            NamespaceLinks::of_process(&options.tree.to_string())
        };
        Self { ours: NamespaceLinks::of_process("self"), roots }
    }
}

/// Namespaces of a task other than those at home.
pub(crate) fn refuse_namespaces(
    links: &NamespaceLinks,
    home: &HomeLinks,
    options: &DumpOptions,
) -> Vec<Problem> {
    // Tasks of a tree that has them for itself may be in several.
    let may_be_several = |kind: NamespaceType| {
        [NamespaceType::Time, NamespaceType::Pid, NamespaceType::Mnt, NamespaceType::User].contains(&kind)
            || task_spaces::TYPES.contains(&kind)
            || (kind == NamespaceType::Net && options.inside.has(kind))
    };
    let other = |kind: &NamespaceType| {
        let known = if options.inside.types.contains(kind) { &home.roots } else { &home.ours };
        known.of(*kind) != links.of(*kind)
    };
    let refusal = |kind: NamespaceType| {
        Problem::new(if options.inside.types.is_empty() {
            RelationRefusal::Namespace(kind.name())
        } else {
            RelationRefusal::Nested(kind.name())
        })
    };
    let all = NamespaceType::ALL.into_iter();
    let others = all.filter(|kind| !may_be_several(*kind)).filter(other);
    others.map(refusal).collect()
}
