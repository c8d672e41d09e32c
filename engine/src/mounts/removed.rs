//! Roots of mounts that were removed elsewhere: made again under their names, and removed again when they are mounted.
//!
//! They keep their names until all namespaces are built: what has none is not mounted anywhere any more (`ENOENT`).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::below::enter_parent;
use super::extract::{Place, extract};
use super::model::Mount;
use super::refusal::MountRefusal;
use super::reveal::removed_name;
use super::yard::{is_folder, open_path};
use crate::error::{Problem, SysError};

/// A file or folder that is to be removed again.
#[derive(Debug)]
pub(super) struct Removed {
    /// Its name now, below the root of its source.
    pub(super) path: PathBuf,
    source: OwnedFd,
    is_folder: bool,
    /// Folders that were made for it.
    parents: Vec<PathBuf>,
}

impl Removed {
    /// Makes one below the root of a source, from its archive. Changes the working directory.
    pub(super) fn make(
        source: OwnedFd,
        below: &Path,
        archive: Option<&File>,
        mount: &Mount,
    ) -> Result<Self, Problem> {
        let archive = archive.ok_or_else(|| Problem::new(MountRefusal::Covered))?;
        let parents = make_parents(&source, below)?;
        let temporary = removed_name(mount);
        let last = enter_parent(&source, below)?.to_owned();
        extract(archive, &open_path(".")?, Place::Empty)?;
        enter_parent(&source, below)?;
        // Another file may have its name now: then the mount shows another name, which leads nowhere either way.
        let name =
            match renameat2(AT_FDCWD, temporary.as_str(), AT_FDCWD, &last, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => last,
                Err(Errno::EEXIST) => PathBuf::from(temporary),
                Err(errno) => return Err(SysError { call: "renameat2", errno }.into()),
            };
        let is_folder = is_folder(&open_path(&name)?)?;
        Ok(Self { path: below.with_file_name(name), source, is_folder, parents })
    }

    /// Removes it again. Changes the working directory.
    pub(super) fn remove(&self) -> Result<(), Problem> {
        let how = if self.is_folder { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        let last = enter_parent(&self.source, &self.path)?;
        unlinkat(AT_FDCWD, last, how).map_err(SysError::of("unlink"))?;
        for parent in self.parents.iter().rev() {
            let last = enter_parent(&self.source, parent)?;
            match unlinkat(AT_FDCWD, last, UnlinkatFlags::RemoveDir) {
                // Another one is in it still.
                Ok(()) | Err(Errno::ENOTEMPTY | Errno::ENOENT) => {}
                Err(errno) => return Err(SysError { call: "rmdir", errno }.into()),
            }
        }
        Ok(())
    }
}

/// Makes the folders above it that are not there; they go again.
fn make_parents(source: &OwnedFd, below: &Path) -> Result<Vec<PathBuf>, Problem> {
    let mut made = Vec::new();
    let parents: Vec<&Path> = below.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    for parent in parents.into_iter().rev() {
        let last = enter_parent(source, parent)?;
        match mkdirat(AT_FDCWD, last, Mode::S_IRWXU) {
            Ok(()) => made.push(parent.to_owned()),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(SysError { call: "mkdir", errno }.into()),
        }
    }
    Ok(made)
}
