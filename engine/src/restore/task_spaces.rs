//! Tasks go into namespaces of host names, System V objects and control groups that are not the root's (`crate::task_spaces`).
//!
//! The first task of each makes it, before it has threads; somebody who is root in the tree's user namespace fills it, as the
//! root of the tree does with its own. A cgroup namespace begins where its maker is, which is moved there for that.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;

use nix::unistd::Uid;
use proto::catalogue::{IPC_VAR, UTSNS};

use super::plan::PlanRefusal;
use super::set::Task;
use super::stub::{Stub, Stubs, add_setns};
use super::user_spaces::{self, Owners, Users};
use crate::args;
use crate::cgroups::CgroupsRestore;
use crate::error::{Context as _, Problem, SysError};
use crate::image::Images;
use crate::kinds::NAMESPACE_KINDS;
use crate::kinds::namespaces::{self, ErasedNamespaceKind, NamespaceRestore};
use crate::mounts::envoy::{self, Namespaces};
use crate::options::RestoreOptions;
use crate::procfs::link::NamespaceType;
use crate::sys::process;
use crate::task_spaces::TYPES;
use crate::tracee::batch::Batch;
use crate::visit;

/// The id of a task's namespace of a type, if it is not the root's.
fn own_id(tasks: &[Task], task: &Task, kind: NamespaceType) -> Option<u32> {
    let id = |task: &Task| namespaces::id(&task.alive.as_ref()?.ids, kind);
    id(task).filter(|own| tasks.first().and_then(id) != Some(*own))
}

/// Whether nobody goes into a namespace that is not the command's.
pub(super) fn are_all_home(tasks: &[Task], options: &RestoreOptions) -> bool {
    let is_home = |task: &Task| NamespaceType::ALL.iter().all(|kind| own_id(tasks, task, *kind).is_none());
    let for_children = |task: &Task| task.core().own.time_ns_for_children;
    options.inside.types.is_empty()
        && options.inside.mounts.is_empty()
        && tasks.iter().all(|task| is_home(task) && for_children(task).is_none())
}

/// Finds what images do not have.
pub(super) fn check(tasks: &[Task], images: &Images) -> Vec<Problem> {
    let mut problems = Vec::new();
    for task in tasks {
        for kind in TYPES {
            let Some(id) = own_id(tasks, task, kind) else { continue };
            let is_there = match kind {
                NamespaceType::Uts => images.has(&UTSNS, id.into()),
                NamespaceType::Ipc => images.has(&IPC_VAR, id.into()),
                _ => true,
            };
            if !is_there {
                let refusal = PlanRefusal::OtherNamespace(kind.name());
                problems.push(Problem::new(refusal).task(&task.name()));
            }
        }
    }
    problems
}

/// Makes them all, and has tasks enter them.
pub(super) fn restore(
    stubs: &mut Stubs,
    tasks: &[Task],
    images: &Images,
    options: &RestoreOptions,
    cgroups: &CgroupsRestore,
    users: &Users,
) -> Result<(), Problem> {
    let owners = Owners::read(images)?;
    let home = tasks.first().map_or(0, |root| root.pid);
    for kind in NAMESPACE_KINDS.iter().filter(|kind| TYPES.contains(&kind.namespace_type())) {
        let of_type = kind.namespace_type();
        let mut made: BTreeMap<u32, File> = BTreeMap::new();
        for (task, stub) in tasks.iter().zip(&mut stubs.0) {
            let Some(id) = own_id(tasks, task, of_type) else { continue };
            let mut batch = Batch::new();
            if let Some(space) = made.get(&id) {
                add_setns(&mut batch, space.as_fd(), of_type.clone_flag());
                stub.run("go into its namespace", &batch)?;
                continue;
            }
            if let Some(owner) = owners.of(of_type, id) {
                let space = user_spaces::make_owned(users.get(owner.id), of_type).of_task(&stub.name)?;
                add_setns(&mut batch, space.as_fd(), of_type.clone_flag());
                stub.run("go into its namespace", &batch)?;
                fill(*kind, (id, owner.root), (home, stub), images, options).of_task(&stub.name)?;
                made.insert(id, space.into());
                continue;
            }
            if of_type == NamespaceType::Cgroup {
                cgroups.enter_places(&task.core().own.cgroup_roots, task.pid).of_task(&stub.name)?;
            }
            batch.call("unshare", libc::SYS_unshare, args![of_type.clone_flag()]);
            stub.run("make its namespace", &batch)?;
            let space = open(stub, of_type).of_task(&stub.name)?;
            if of_type != NamespaceType::Cgroup {
                fill(*kind, (id, 0), (home, stub), images, options).of_task(&stub.name)?;
            }
            made.insert(id, space);
        }
    }
    Ok(())
}

fn open(stub: &Stub, kind: NamespaceType) -> Result<File, Problem> {
    visit::of(stub.pid, kind)
}

/// Has a process of ours fill a namespace, as its root.
fn fill(
    kind: &dyn ErasedNamespaceKind,
    (id, root): (u32, u32),
    (root_pid, stub): (i32, &Stub),
    images: &Images,
    options: &RestoreOptions,
) -> Result<(), Problem> {
    let [spaces, opened, mounts, masters] = std::array::from_fn(|_| RefCell::default());
    let users = RefCell::default();
    let cx = NamespaceRestore {
        options,
        images,
        types: &options.inside.types,
        spaces: &spaces,
        users: &users,
        id,
        brought: &[],
        opened: &opened,
        mounts: &mounts,
        masters: &masters,
    };
    let namespaces = Namespaces::of_type(root_pid, stub.pid, kind.namespace_type())?;
    let filled = envoy::fork(|| {
        namespaces.enter_as_root()?;
        // Tunables are only for the root of the user namespace that it belongs to.
        process::keep_capabilities()?;
        nix::unistd::seteuid(Uid::from_raw(root)).map_err(SysError::of("seteuid"))?;
        kind.restore(cx).map(|()| Vec::new())
    });
    filled.map(drop).while_trying_to("restore its namespaces")
}
