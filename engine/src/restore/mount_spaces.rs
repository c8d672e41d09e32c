//! Mount namespaces that only a part of a tree is in, when the root's is not made for it (`crate::mount_spaces`).
//!
//! They are built before anything else, by a process of ours that hands them on and ends; with our last descriptor of them, they
//! end as well. What comes from home is opened there first.

use std::os::fd::{IntoRawFd as _, OwnedFd};

use proto::messages::TaskKobjIdsEntry;

use super::set::Task;
use super::user_spaces::Owners;
use crate::error::{Context as _, Problem};
use crate::image::Images;
use crate::kinds::namespaces::mnt::{Planned, ToMake, first};
use crate::made_files::MadeFiles;
use crate::mounts::envoy::{self, Namespaces};
use crate::options::{Inside, RestoreOptions};
use crate::procfs::link::NamespaceType;

/// Ids of all mount namespaces of the tree that are made.
pub(super) fn ids(tasks: &[Task], options: &RestoreOptions) -> Vec<u32> {
    let roots = |ids: TaskKobjIdsEntry| ids.mnt_ns_id;
    let root = tasks.first().and_then(|root| roots(root.alive.as_ref()?.ids));
    let is_made = options.inside.has(NamespaceType::Mnt);
    root.filter(|_| is_made).into_iter().chain(beside_root(tasks)).collect()
}

fn beside_root(tasks: &[Task]) -> impl Iterator<Item = u32> + use<> {
    super::members(tasks).beside_root(NamespaceType::Mnt).into_iter()
}

/// Whether there are some that only a part of the tree is in, and the root's is not made.
pub(super) fn are_of_part(tasks: &[Task], options: &RestoreOptions) -> bool {
    !options.inside.has(NamespaceType::Mnt) && beside_root(tasks).next().is_some()
}

/// Finds what stands in the way of making them.
pub(super) fn check(tasks: &[Task], images: &Images, options: &RestoreOptions) -> Result<(), Vec<Problem>> {
    ToMake::of_part(options, images, &ids(tasks, options)).plan_part().map(drop)
}

/// Makes them, if there are any; the options with which the restore goes on know what leads to them.
pub(super) fn make(
    tasks: &[Task],
    images: &Images,
    options: &RestoreOptions,
    users: &MadeFiles,
) -> Result<Option<RestoreOptions>, Vec<Problem>> {
    if !are_of_part(tasks, options) {
        return Ok(None);
    }
    let planned = ToMake::of_part(options, images, &ids(tasks, options)).plan_part()?;
    let made = build(&planned, images, options, users).while_trying_to("make its mount namespaces");
    let [covered, mounts, masters] = made.map_err(|problem| vec![problem])?;
    // From now on they are open here, under these numbers.
    let numbers =
        |files: Vec<(u32, OwnedFd)>| files.into_iter().map(|(id, fd)| (id, fd.into_raw_fd())).collect();
    let inside = Inside { covered: numbers(covered), mounts: numbers(mounts), ..options.inside.clone() };
    let inside = if masters.is_empty() { inside } else { Inside { masters: masters.into(), ..inside } };
    Ok(Some(RestoreOptions { inside, ..options.clone() }))
}

/// Files that were opened, mount namespaces, and masters of terminals, each by its number in the images.
fn build(
    planned: &Planned,
    images: &Images,
    options: &RestoreOptions,
    users_below: &MadeFiles,
) -> Result<[Vec<(u32, OwnedFd)>; 3], Problem> {
    let owners = Owners::read(images)?.of_type(NamespaceType::Mnt, users_below)?;
    // What we make belongs to the root of the tree's user namespace, if it has one.
    let has_users = options.inside.types.contains(&NamespaceType::User);
    let users = has_users.then(|| Namespaces::of_users(options.inside.inner_pid)).transpose()?;
    envoy::fork_for_files(|| {
        let outside = planned.open_outside().map_err(first)?;
        users.iter().try_for_each(Namespaces::enter_as_root)?;
        let (built, masters) = planned.build(outside, images, Vec::new(), owners)?;
        let mut opened = Vec::new();
        let mut mounts = Vec::new();
        for built in built {
            opened.extend(built.opened);
            mounts.push((built.id, built.namespace));
        }
        Ok([opened, mounts, masters])
    })
}
