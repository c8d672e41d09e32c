//! What comes from outside of the new namespaces: opened by the engine while it sees it, and mounted by whoever builds them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::file_system;
use super::home::Covered;
use super::plan::{Demand, Plan, Source, SourceKind};
use super::refusal::MountRefusal;
use super::reveal;
use super::surroundings::Surroundings;
use crate::error::{Context as _, Problem, SysError};
use crate::procfs::id_map::IdMaps;
use crate::sys::mount::{self as sys, Depth};

/// Mounts that are nowhere yet: one for each source that is outside, in their order.
#[derive(Debug)]
pub struct OutsideMounts(Vec<OwnedFd>);

impl OutsideMounts {
    /// Opens them, or says all that stands in the way. For some that others cover, the calling process, which has one thread, goes
    /// elsewhere for the moment.
    pub fn open(plan: &Plan) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut opened = Vec::new();
        let here = Surroundings::read().map_err(|problem| vec![problem])?;
        for source in &plan.sources {
            match open_source(source, &here).about(|| source.object.clone()) {
                Ok(mount) => opened.push(mount),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let covered: Vec<&Source> =
            plan.sources.iter().filter(|source| matches!(source.kind, SourceKind::Covered(_))).collect();
        let mut found = uncover(&covered).map_err(|problem| vec![problem])?.into_iter();
        let all = plan.sources.iter().zip(opened).filter_map(|(source, mount)| match source.kind {
            SourceKind::Covered(_) => found.next(),
            _ => mount,
        });
        Ok(Self(all.collect()))
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

fn open_source(source: &Source, here: &Surroundings) -> Result<Option<OwnedFd>, Problem> {
    match &source.kind {
        SourceKind::Outside(path, demand) => clone(path, demand, here).map(Some),
        SourceKind::Machine(file_system, _) => file_system::make(file_system, &IdMaps::default()).map(Some),
        SourceKind::Covered(_) | SourceKind::Inside(..) | SourceKind::Layers(_) => Ok(None),
    }
}

fn uncover(sources: &[&Source]) -> Result<Vec<OwnedFd>, Problem> {
    let Some(first) = sources.first() else { return Ok(Vec::new()) };
    let covered = sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Covered(covered) => Some(covered),
        _ => None,
    });
    let covered: Vec<&Covered> = covered.collect();
    let found = reveal::at_home(&covered).about(|| first.object.clone())?;
    let opened = found.into_iter().zip(covered).zip(sources).map(|((mount, covered), source)| {
        let mountpoint = covered.mountpoint.display().to_string();
        let missing = || Problem::new(MountRefusal::NotFound { mountpoint });
        mount.ok_or_else(missing).about(|| source.object.clone())
    });
    opened.collect()
}

fn clone(path: &Path, demand: &Demand, here: &Surroundings) -> Result<OwnedFd, Problem> {
    let step = "open what is mounted from outside";
    let found = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    if *demand == Demand::MountPoint {
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
    if let Demand::Type(fstype) = demand
        && here.type_of(sys::mount_id(found.as_fd())?) != Some(fstype.as_bytes())
    {
        let mountpoint = path.display().to_string();
        return Err(Problem::new(MountRefusal::NotFound { mountpoint }));
    }
    sys::clone_at(&found, Path::new(""), Depth::One).while_trying_to(step)
}
