//! Mount namespaces (mount_namespaces(7)): the tree of mounts, and contents of file systems that nobody else keeps.
//!
//! How they are read, kept and built is in `mounts.rs`; what is outside is opened before the tree is born, by the engine, which
//! still sees it.

use proto::catalogue::FILES;
use proto::messages::FileEntry;

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::Problem;
use crate::image::NewImages;
use crate::mounts::build::Wanted;
use crate::mounts::model::Namespace;
use crate::mounts::outside::Outside;
use crate::mounts::plan::Plan;
use crate::mounts::surroundings::Surroundings;
use crate::mounts::write::{self, Member};
use crate::mounts::{build, classify, plan, read};
use crate::procfs::link::NamespaceType;

use std::os::fd::OwnedFd;

/// Mount namespaces.
#[derive(Debug)]
pub struct MntNamespace;

/// The mounts, with what comes from outside noted, and what stands in the way.
fn classified(cx: NamespaceDump<'_>) -> Result<(Namespace, Vec<Problem>), Problem> {
    let namespace = read::namespace(cx.root, cx.id)?;
    let mut namespaces = [namespace];
    let surroundings = &cx.options.inside.surroundings;
    let problems = classify::classify(&mut namespaces, surroundings, &cx.options.mounts);
    let [namespace] = namespaces;
    Ok((namespace, problems))
}

fn planned(cx: NamespaceRestore<'_>) -> Result<Plan, Vec<Problem>> {
    let one = |problem| vec![problem];
    let namespaces = plan::read(cx.images, &[cx.id], &cx.options.mounts).map_err(one)?;
    let surroundings = Surroundings::read().map_err(one)?;
    plan::plan(&namespaces, cx.images, &surroundings, &cx.options.mounts)
}

/// The first of several problems: all have been told by `check`.
fn first(problems: Vec<Problem>) -> Problem {
    problems.into_iter().next().unwrap_or_else(|| Problem::new(crate::mounts::refusal::MountRefusal::NoRoot))
}

impl NamespaceKind for MntNamespace {
    const NAME: &'static str = "mnt-namespace";
    const NOT_SAVED: &'static [&'static str] = &[
        "ids of mounts",
        "contents of file systems other than tmpfs and ramfs",
        "mounts that are locked against a user namespace",
        "ids that a mount maps",
    ];
    const TYPE: NamespaceType = NamespaceType::Mnt;

    fn look(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        match classified(cx) {
            Ok((_, found)) => problems.extend(found),
            Err(problem) => problems.push(problem),
        }
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let (namespace, _) = classified(cx)?;
        let member = Member { namespace: &namespace, pid: cx.root };
        write::write(&[member], &cx.options.mounts, images)
    }

    fn check(cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>) {
        if let Err(found) = planned(cx).and_then(|plan| Outside::open(&plan)) {
            problems.extend(found);
        }
    }

    fn before_birth(cx: NamespaceRestore<'_>) -> Result<Vec<OwnedFd>, Problem> {
        let outside = planned(cx).and_then(|plan| Outside::open(&plan));
        outside.map(Outside::into_fds).map_err(first)
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        // What is planned depends on paths that nobody can see in here in another way than outside: all are opened.
        let plan = planned(cx).map_err(first)?;
        let built = build::build(&plan, Outside::from_fds(cx.brought)?, cx.images, &wanted(cx)?)?;
        cx.opened.borrow_mut().extend(built.into_iter().flat_map(|built| built.opened));
        Ok(())
    }
}

/// Files that the images know by their mounts: others cover their names.
fn wanted(cx: NamespaceRestore<'_>) -> Result<Vec<Wanted>, Problem> {
    let files: Vec<FileEntry> =
        if cx.images.has(&FILES, 0) { cx.images.read(&FILES, 0)? } else { Vec::new() };
    let wanted = |file: &FileEntry| {
        let reg = file.reg.as_ref()?;
        let mount = u32::try_from(reg.mnt_id?).ok().filter(|id| *id != 0)?;
        Some(Wanted { id: reg.id, mount, name: reg.name.clone() })
    };
    Ok(files.iter().filter_map(wanted).collect())
}
