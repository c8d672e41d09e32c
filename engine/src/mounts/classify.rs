//! Before a dump: which mounts come from outside, and which cannot be brought back.

use std::collections::BTreeSet;

use super::fs_types::{self, Origin};
use super::home;
use super::model::{Mount, Namespace};
use super::refusal::MountRefusal;
use super::surroundings::Surroundings;
use crate::error::Problem;
use crate::options::MountOptions;

/// The key of a root that comes from outside.
pub(super) const ROOT_KEY: &str = "/";

fn without_slash(path: &str) -> &str {
    if path.len() > 1 { path.trim_end_matches('/') } else { path }
}

/// Whose mount namespaces they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The tree's, all of them.
    Trees,
    /// Parts' of a tree whose root is at home, where they have much of theirs from.
    Parts,
}

/// Leaves out what the user does not want, notes what comes from outside, and finds what stands in the way.
pub fn classify(
    namespaces: &mut [Namespace],
    surroundings: &Surroundings,
    options: &MountOptions,
    whose: Whose,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for namespace in namespaces.iter_mut() {
        skip(namespace, options);
    }
    name_external(namespaces, options, &mut problems);
    let mut tied = BTreeSet::new();
    match whose {
        Whose::Trees => name_roots(namespaces, options, surroundings),
        Whose::Parts => tied = home::find(namespaces, surroundings),
    }
    for i in 0..namespaces.len() {
        find_outside(namespaces, i, surroundings, options, &mut problems);
    }
    let all: &[Namespace] = namespaces;
    let mounts = all.iter().flat_map(|namespace| &namespace.mounts);
    for mount in mounts.filter(|mount| !tied.contains(&mount.id)) {
        problems
            .extend(groups(all, mount, surroundings, options).into_iter().map(|p| p.object(mount.object())));
    }
    problems
}

/// Leaves out mounts, and what is mounted on them.
pub(super) fn skip(namespace: &mut Namespace, options: &MountOptions) {
    let root = namespace.root().map(|root| root.id);
    let is_skipped = |mount: &Mount| {
        Some(mount.id) != root && options.skip.iter().any(|path| without_slash(path) == mount.mountpoint)
    };
    let mut left_out: Vec<u32> = namespace.mounts.iter().filter(|m| is_skipped(m)).map(|m| m.id).collect();
    let mut next = 0;
    while let Some(id) = left_out.get(next).copied() {
        let children = namespace.mounts.iter().filter(|mount| mount.parent == id && mount.id != id);
        left_out.extend(children.map(|mount| mount.id));
        next += 1;
    }
    namespace.mounts.retain(|mount| !left_out.contains(&mount.id));
}

/// Gives external mounts the names that the user has for them. Of several at one place, the uppermost is meant.
fn name_external(namespaces: &mut [Namespace], options: &MountOptions, problems: &mut Vec<Problem>) {
    for (path, key) in &options.external {
        let path = without_slash(path);
        let mut found = false;
        for namespace in namespaces.iter_mut() {
            if let Some(mount) = namespace.mounts.iter_mut().rev().find(|m| m.mountpoint == path) {
                mount.external = Some(key.clone());
                found = true;
            }
        }
        if !found {
            let option = format!("--external mnt[{path}]");
            problems.push(Problem::new(MountRefusal::NotThere { option }));
        }
    }
}

/// A root that is not made of something that we keep is outside.
fn name_roots(namespaces: &mut [Namespace], options: &MountOptions, surroundings: &Surroundings) {
    for i in 0..namespaces.len() {
        let Some(root) = namespaces.get(i).and_then(Namespace::root) else { continue };
        let is_kept = fs_types::origin(&root.fstype, &options.enabled) == Origin::Archive
            && !surroundings.has_device(root.dev);
        let is_given = i == 0 && options.root.is_some();
        if is_part_of_external(namespaces, root) || (is_kept && !is_given) {
            continue;
        }
        let id = root.id;
        let mounts = namespaces.get_mut(i).map_or(&mut [][..], |namespace| &mut namespace.mounts);
        if let Some(root) = mounts.iter_mut().find(|mount| mount.id == id) {
            root.external = Some(ROOT_KEY.into());
        }
    }
}

/// Whether a mount has a part of what an external mount brings in.
fn is_part_of_external(namespaces: &[Namespace], mount: &Mount) -> bool {
    namespaces.iter().flat_map(|namespace| &namespace.mounts).any(|other| {
        other.external.is_some() && other.dev == mount.dev && mount.root_below(&other.root).is_some()
    })
}

fn find_outside(
    namespaces: &mut [Namespace],
    at: usize,
    surroundings: &Surroundings,
    options: &MountOptions,
    problems: &mut Vec<Problem>,
) {
    let count = namespaces.get(at).map_or(0, |namespace| namespace.mounts.len());
    for i in 0..count {
        let Some(mount) = namespaces.get(at).and_then(|namespace| namespace.mounts.get(i)) else { continue };
        if mount.external.is_some() || is_part_of_external(namespaces, mount) {
            continue;
        }
        let Some(mut refusal) = stands_in_the_way(mount, surroundings, options) else { continue };
        if let Some(path) = options.auto.and_then(|_| surroundings.path_of(mount.dev, &mount.root)) {
            if let Some(mount) = namespaces.get_mut(at).and_then(|namespace| namespace.mounts.get_mut(i)) {
                mount.external = Some(path);
            }
            continue;
        }
        if options.auto.is_some() && !matches!(refusal, MountRefusal::Never { .. }) {
            refusal = MountRefusal::NotFound { mountpoint: mount.mountpoint.clone() };
        }
        problems.push(Problem::new(refusal).object(mount.object()));
    }
}

/// Why a mount cannot be made of what the images have.
fn stands_in_the_way(
    mount: &Mount,
    surroundings: &Surroundings,
    options: &MountOptions,
) -> Option<MountRefusal> {
    let (fstype, mountpoint) = (mount.fstype.clone(), mount.mountpoint.clone());
    match fs_types::origin(&mount.fstype, &options.enabled) {
        Origin::Never(reason) => Some(MountRefusal::Never { fstype, reason, mountpoint }),
        Origin::Outside => {
            let may_enable = mount.source.starts_with('/');
            Some(MountRefusal::Outside { fstype, mountpoint, may_enable })
        }
        Origin::Archive | Origin::Layers if surroundings.has_device(mount.dev) => {
            Some(MountRefusal::Used { fstype, mountpoint })
        }
        _ => None,
    }
}

/// What is wrong with the peer groups of a mount.
fn groups(
    namespaces: &[Namespace],
    mount: &Mount,
    surroundings: &Surroundings,
    options: &MountOptions,
) -> Vec<Problem> {
    let all = || namespaces.iter().flat_map(|namespace| &namespace.mounts);
    let is_external = mount.external.is_some() || is_part_of_external(namespaces, mount);
    let mountpoint = mount.mountpoint.clone();
    let mut problems = Vec::new();
    if surroundings.has_group(mount.shared) && !(is_external && options.allows_sharing()) {
        let mountpoint = mountpoint.clone();
        problems.push(Problem::new(MountRefusal::SharedOutside { is_external, mountpoint }));
    }
    if let Some(master) = mount.master
        && all().all(|other| other.shared != Some(master))
        && !(is_external && options.allows_masters())
    {
        problems.push(Problem::new(MountRefusal::MasterOutside { is_external, mountpoint }));
    }
    problems
}
