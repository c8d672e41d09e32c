//! The number that was given last in each pid namespace of a tree, behind which the next one is looked for (`ns_last_pid`,
//! Documentation/admin-guide/sysctl/kernel.rst). Whoever reads or writes it does so for the namespace that it is in, whatever procfs
//! that is done by.

use std::fs::File;

use proto::catalogue::STASIS_PIDNS;
use proto::messages::StasisPidnsEntry;

use crate::error::Context as _;
use crate::error::{Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::kinds::namespaces;
use crate::mounts::envoy;
use crate::options::{Inside, RestoreOptions};
use crate::pid_spaces::PidSpaces;
use crate::procfs::link::NamespaceType;
use crate::visit::{self, Visit};

/// Where it is told.
pub const PATH: &str = "/proc/sys/kernel/ns_last_pid";

/// That of the namespace that we are in; none if nobody tells.
pub fn here() -> Option<i32> {
    std::fs::read_to_string(PATH).ok()?.trim().parse().ok()
}

fn set_here(pid: u32) -> Result<(), Problem> {
    let written = std::fs::write(PATH, pid.to_string()).map_err(SysError::io("write"));
    written.about(|| Object::Path(PATH.into()))
}

/// Writes those of the root's namespace, if the tree has it for itself, and of all below.
pub fn write(spaces: &PidSpaces, inside: &Inside, images: &mut NewImages) -> Result<(), Problem> {
    let home = namespaces::ids_of_tree(&inside.types).pid_ns_id.filter(|_| inside.has(NamespaceType::Pid));
    let home =
        home.zip(inside.last_pid).map(|(id, pid)| StasisPidnsEntry { id, last_pid: pid.cast_unsigned() });
    let mut entries: Vec<StasisPidnsEntry> = home.into_iter().collect();
    for (space, id) in spaces.files() {
        let last_pid = look_inside(&space?).while_trying_to("look into a pid namespace")?;
        entries.push(StasisPidnsEntry { id, last_pid });
    }
    if entries.is_empty() { Ok(()) } else { images.write(&STASIS_PIDNS, 0, &entries) }
}

/// Asks in a namespace; who asks has a number there, too, and gives it back.
fn look_inside(space: &File) -> Result<u32, Problem> {
    let there = Visit::pay(space, NamespaceType::Pid)?;
    let told = envoy::fork(|| {
        let last = std::process::id().saturating_sub(1);
        set_here(last)?;
        Ok(last.to_ne_bytes().to_vec())
    });
    drop(there);
    Ok(told?.as_chunks().0.first().map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
}

/// Sets them, when nobody will be made any more. Where they cannot be written nothing is lost but an order.
pub fn restore(
    options: &RestoreOptions,
    images: &Images,
    init: impl Fn(u32) -> Option<i32>,
) -> Result<(), Problem> {
    if !images.has(&STASIS_PIDNS, 0) {
        return Ok(());
    }
    for entry in images.read::<StasisPidnsEntry>(&STASIS_PIDNS, 0)? {
        let set = match init(entry.id) {
            Some(init) => set_inside(init, entry.last_pid),
            None if options.inside.has(NamespaceType::Pid) => set_here(entry.last_pid),
            None => continue,
        };
        if let Err(problem) = set {
            log::warn!("the number that was given last in a pid namespace is another one: {}", problem.cause);
        }
    }
    Ok(())
}

/// Sets that of the namespace that this is the init of.
pub fn set_inside(init: i32, last: u32) -> Result<(), Problem> {
    let there = Visit::pay(visit::of(init, NamespaceType::Pid)?, NamespaceType::Pid)?;
    let set = envoy::fork(|| set_here(last).map(|()| Vec::new()));
    drop(there);
    set.map(drop)
}
