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
use crate::sys::mount::{self as sys, Depth};

/// Mounts that are nowhere yet, for the sources that are outside.
#[derive(Debug)]
pub struct Outside(Vec<Option<OwnedFd>>);

impl Outside {
    /// Opens them, or says all that stands in the way.
    pub fn open(plan: &Plan) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut opened = Vec::new();
        for source in &plan.sources {
            let result = open_source(source).about(|| source.object.clone());
            opened.push(result.unwrap_or_else(|problem| {
                problems.push(problem);
                None
            }));
        }
        if problems.is_empty() { Ok(Self(opened)) } else { Err(problems) }
    }

    /// Takes the mount of a source.
    pub(super) fn take(&mut self, source: usize) -> Option<OwnedFd> {
        self.0.get_mut(source).and_then(Option::take)
    }
}

fn open_source(source: &Source) -> Result<Option<OwnedFd>, Problem> {
    match &source.kind {
        SourceKind::Outside(path, is_mount_point) => clone(path, *is_mount_point).map(Some),
        SourceKind::Machine(file_system) => file_system::make(file_system, &[]).map(Some),
        SourceKind::Inside(..) | SourceKind::Layers(_) => Ok(None),
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
