//! What comes from outside of the new namespaces: opened by the engine while it sees it, and mounted by whoever builds them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::file_system;
use super::plan::{Plan, Source, SourceKind};
use super::refusal::MountRefusal;
use crate::error::{Context as _, Problem, SysError};
use crate::procfs::id_map::IdMaps;
use crate::sys::mount::{self as sys, Depth};

/// Mounts that are nowhere yet: one for each source that is outside, in their order.
#[derive(Debug)]
pub struct OutsideMounts(Vec<OwnedFd>);

impl OutsideMounts {
    /// Opens them, or says all that stands in the way.
    pub fn open(plan: &Plan) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut opened = Vec::new();
        for source in &plan.sources {
            match open_source(source).about(|| source.object.clone()) {
                Ok(mount) => opened.extend(mount),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Self(opened)) } else { Err(problems) }
    }

    /// As descriptors, to be handed to the process that builds.
    pub fn into_fds(self) -> Vec<OwnedFd> {
        self.0
    }

    /// From descriptors that were handed on.
    pub fn from_fds(fds: &[OwnedFd]) -> Result<Self, SysError> {
        let duplicates = fds.iter().map(|fd| fd.try_clone().map_err(SysError::io("dup")));
        duplicates.collect::<Result<_, _>>().map(Self)
    }
}

fn open_source(source: &Source) -> Result<Option<OwnedFd>, Problem> {
    match &source.kind {
        SourceKind::Outside(path, is_mount_point) => clone(path, *is_mount_point).map(Some),
        SourceKind::Machine(file_system) => file_system::make(file_system, &IdMaps::default()).map(Some),
        SourceKind::Inside(..) | SourceKind::Layers(_) | SourceKind::NetSpace(_) => Ok(None),
    }
}

fn clone(path: &Path, is_mount_point: bool) -> Result<OwnedFd, Problem> {
    let step = "open what is mounted from outside";
    let found = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    if is_mount_point {
        let is_root = match &found {
            Ok(fd) => sys::is_mount_root(fd.as_fd()).while_trying_to(step)?,
            Err(Errno::ENOENT | Errno::ENOTDIR) => false,
            Err(errno) => return Err(Problem::new(SysError { call: "open", errno: *errno }).step(step)),
        };
        if !is_root {
            let path = path.display().to_string();
            return Err(Problem::new(MountRefusal::RootNotMountPoint { path }));
        }
    }
    let found = found.map_err(SysError::of("open")).while_trying_to(step)?;
    sys::clone_at(&found, Path::new(""), Depth::One).while_trying_to(step)
}
