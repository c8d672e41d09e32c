//! What is below a folder, and nothing else: no link is followed, and nothing that is mounted there is entered.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::fchdir;

use crate::error::SysError;

/// Opens it, not to be inherited; an empty path is the folder itself.
pub(super) fn open(folder: impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, SysError> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(folder, path, how).map_err(SysError::of("openat2"))
}

/// Makes the folder that a file is in the working directory; the file's name there.
pub(super) fn enter_parent(root: impl AsFd, path: &Path) -> Result<&Path, SysError> {
    let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
        fchdir(root).map_err(SysError::of("fchdir"))?;
        return Ok(Path::new("."));
    };
    let parent = open(root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    fchdir(&parent).map_err(SysError::of("fchdir"))?;
    Ok(Path::new(last))
}
