//! The root of a mount that was removed elsewhere: made again under its name, mounted, and removed again.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::archive::enter_parent;
use super::extract::extract;
use super::model::Mount;
use super::refusal::MountRefusal;
use super::reveal::removed_name;
use super::yard::open_path;
use crate::error::{Context as _, Problem, SysError};
use crate::sys::mount::{self as sys, Depth};

/// Makes it below a source, from its archive; its mount, which is nowhere yet. Changes the working directory.
pub(super) fn make(
    source: &OwnedFd,
    below: &Path,
    archive: Option<&File>,
    mount: &Mount,
) -> Result<OwnedFd, Problem> {
    let step = "make again what it has mounted and was removed";
    let archive = archive.ok_or_else(|| Problem::new(MountRefusal::Covered))?;
    let parents = make_parents(source, below).while_trying_to(step)?;
    let made = make_inside(source, below, archive, mount).while_trying_to(step);
    for parent in parents.iter().rev() {
        let last = enter_parent(source, parent)?;
        unlinkat(AT_FDCWD, last, UnlinkatFlags::RemoveDir).map_err(SysError::of("rmdir")).while_trying_to(step)?;
    }
    made
}

fn make_inside(source: &OwnedFd, below: &Path, archive: &File, mount: &Mount) -> Result<OwnedFd, Problem> {
    let last = enter_parent(source, below)?;
    let temporary = removed_name(mount);
    extract(archive, &open_path(".")?)?;
    let last = enter_parent(source, below).map(|_| last)?;
    // Another file may have its name now: then the mount shows another name, which leads nowhere either way.
    let name = match renameat2(AT_FDCWD, temporary.as_str(), AT_FDCWD, last, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => last,
        Err(Errno::EEXIST) => Path::new(&temporary),
        Err(errno) => return Err(SysError { call: "renameat2", errno }.into()),
    };
    let found = open_path(name)?;
    let mounted = sys::clone_at(&found, Path::new(""), Depth::One)?;
    sys::set_propagation(mounted.as_fd(), nix::mount::MsFlags::MS_PRIVATE.bits())?;
    let kind = SFlag::from_bits_truncate(fstat(&found).map_err(SysError::of("fstat"))?.st_mode);
    let is_folder = kind & SFlag::S_IFMT == SFlag::S_IFDIR;
    let how = if is_folder { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    unlinkat(AT_FDCWD, name, how).map_err(SysError::of("unlink"))?;
    Ok(mounted)
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
