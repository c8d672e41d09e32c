//! Procfs of pid namespaces below that of a tree's root (`crate::pid_spaces`), as `unshare --mount-proc` mounts one.
//!
//! A procfs shows the pid namespace of its maker (`proc_init_fs_context`, fs/proc/root.c). While the mounts of a tree are
//! built, nobody is in those namespaces yet; so the place of such a procfs is opened while it is bare, and it is mounted there
//! when the tree has been born. In images it has an option, `pidns`, that names the init.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{OFlag, open, readlinkat};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::build::{Wanted, WantedKind};
use super::envoy::{self, Namespaces};
use super::file_system;
use super::flags;
use super::model::{Mount, Namespace, add_option};
use super::plan::FileSystem;
use super::refusal::MountRefusal;
use crate::error::{Context as _, Problem, SysError};
use crate::procfs::id_map::IdMaps;
use crate::procfs::link::NamespaceType;
use crate::sys::mount as sys;
use crate::visit::{self, Visit};

/// The type of these file systems.
pub(super) const TYPE: &str = "proc";
/// The option that names the init of the pid namespace, in images.
const OPTION: &str = "pidns=";
/// What makes the id of a mount one for its place, which is opened as files are that others cover.
pub const PLACE: u32 = 1 << 31;
/// What makes the id of a mount one for its root, by which files of tasks are found that are not there yet.
pub const ROOT: u32 = 1 << 30;

/// The init of a pid namespace below that of the root, and what the links of its members say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    /// Its pid.
    pub pid: i32,
    /// `/proc/PID/ns/pid`.
    pub link: PathBuf,
}

/// Whether there can be a procfs of another pid namespace at all.
pub fn are_several(namespaces: &[Namespace]) -> bool {
    let mounts = namespaces.iter().flat_map(|namespace| &namespace.mounts);
    let devices: BTreeSet<u32> = mounts.filter(|mount| mount.fstype == TYPE).map(|mount| mount.dev).collect();
    devices.len() > 1
}

/// Marks those mounts of a namespace, which a task is in, that show one of these pid namespaces.
pub fn mark(namespace: &mut Namespace, (root, member): (i32, i32), inits: &[Init]) -> Result<(), Problem> {
    let namespaces = Namespaces::of(root, member)?;
    let mounts: Vec<&Mount> = namespace.mounts.iter().filter(|mount| mount.fstype == TYPE).collect();
    let look = || -> Result<Vec<u8>, Problem> {
        namespaces.enter()?;
        let shown = mounts.iter().filter_map(|mount| {
            let link = shown_by(mount)?;
            let init = inits.iter().find(|init| init.link == link)?;
            Some([mount.dev, init.pid.cast_unsigned()])
        });
        Ok(shown.flatten().flat_map(u32::to_ne_bytes).collect())
    };
    let told = envoy::fork(look).while_trying_to("find out whose processes a procfs shows")?;
    let words: Vec<u32> = told.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    let shown: BTreeMap<u32, u32> = words.as_chunks().0.iter().map(|[dev, init]| (*dev, *init)).collect();
    for mount in namespace.mounts.iter_mut().filter(|mount| mount.fstype == TYPE) {
        if let Some(init) = shown.get(&mount.dev) {
            add_option(&mut mount.options, &format!("{OPTION}{init}"));
        }
    }
    Ok(())
}

/// What the link of the pid namespace that a procfs shows says; none if others cover it.
fn shown_by(mount: &Mount) -> Option<PathBuf> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(mount.mountpoint.as_str(), flags, Mode::empty()).ok()?;
    if sys::mount_id(root.as_fd()).ok()? != u64::from(mount.id) {
        return None;
    }
    readlinkat(&root, "1/ns/pid").ok().map(PathBuf::from)
}

/// The init of the pid namespace below that of the root that a mount shows.
fn init_of(mount: &Mount) -> Option<i32> {
    let option = mount.options.split(',').find_map(|option| option.strip_prefix(OPTION));
    option.filter(|_| mount.fstype == TYPE)?.parse().ok()
}

/// Those that would come back in another way.
pub fn check(namespaces: &[Namespace]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let all = || namespaces.iter().flat_map(|namespace| &namespace.mounts);
    for namespace in namespaces {
        for mount in namespace.mounts.iter().filter(|mount| init_of(mount).is_some()) {
            let has_peers = |group: u32| {
                all().any(|other| {
                    other.id != mount.id && (other.shared == Some(group) || other.master == Some(group))
                })
            };
            let what = if mount.root != "/" {
                "only a part of it is mounted"
            } else if namespace.children(mount).next().is_some() {
                "something is mounted on it"
            } else if mount.master.is_some() || mount.shared.is_some_and(has_peers) {
                "it shares events with other mounts"
            } else {
                continue;
            };
            problems.push(Problem::new(MountRefusal::OtherPids(what)).object(mount.object()));
        }
    }
    problems
}

/// One that is mounted when the tree has been born.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    /// The id of its mount namespace.
    pub namespace: u32,
    /// The init of the pid namespace that it shows.
    pub init: i32,
    mount: Mount,
}

/// Takes them out of the tables.
pub fn take_out(namespaces: &mut [Namespace]) -> Vec<Later> {
    let mut later = Vec::new();
    for namespace in namespaces {
        let found = namespace.mounts.iter().filter_map(|mount| Some((mount, init_of(mount)?)));
        let found = found.map(|(mount, init)| Later { namespace: namespace.id, init, mount: mount.clone() });
        let from = later.len();
        later.extend(found);
        let is_kept = |mount: &Mount| !later.iter().skip(from).any(|later| later.mount.id == mount.id);
        namespace.mounts.retain(is_kept);
    }
    later
}

impl Later {
    /// Its place, to be opened when what it is on is bare.
    pub fn place(&self) -> Wanted {
        let Mount { parent, mountpoint, .. } = &self.mount;
        let (id, name) = (self.mount.id | PLACE, mountpoint.clone());
        Wanted { id, mount: *parent, name, kind: WantedKind::File }
    }

    /// Makes it, and mounts it at its place, which is in our mount namespace or in this one. Its root, by the id of its mount.
    pub fn restore(
        &self,
        place: BorrowedFd<'_>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Result<Vec<(u32, OwnedFd)>, Problem> {
        let space = visit::of(self.init, NamespaceType::Pid)?;
        let attach = || -> Result<[Vec<(u32, OwnedFd)>; 1], Problem> {
            let made = self.make().while_trying_to("make a procfs")?;
            if let Some(namespace) = namespace {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS)
                    .map_err(SysError::of("setns"))?;
            }
            sys::attach(made.as_fd(), place)?;
            Ok([vec![(self.mount.id, made)]])
        };
        let there = Visit::pay(&space, NamespaceType::Pid)?;
        let attached = envoy::fork_for_files(attach);
        drop(there);
        attached.map(|[made]| made).about(|| self.mount.object()).while_trying_to("mount it")
    }

    fn make(&self) -> Result<OwnedFd, Problem> {
        let options = self.mount.options.split(',').filter(|option| !option.starts_with(OPTION));
        let file_system = FileSystem {
            fstype: self.mount.fstype.clone(),
            source: self.mount.source.clone(),
            options: options.collect::<Vec<_>>().join(","),
            flags: self.mount.sb_flags,
        };
        let made = file_system::make(&file_system, &IdMaps::default())?;
        file_system::set_flags(&made, &file_system)?;
        let (set, clear) = flags::attributes(self.mount.flags);
        sys::set_attributes(made.as_fd(), set, clear)?;
        if self.mount.shared.is_some() {
            sys::set_propagation(made.as_fd(), MsFlags::MS_SHARED.bits())?;
        } else if flags::is_unbindable(self.mount.flags) {
            sys::set_propagation(made.as_fd(), MsFlags::MS_UNBINDABLE.bits())?;
        }
        Ok(made)
    }
}
