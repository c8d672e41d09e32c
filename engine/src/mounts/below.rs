//! What is below a folder, and nothing else: no link is followed, and nothing that is mounted there is entered.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::fchdir;

use crate::error::SysError;
use crate::sys::mount;

/// Opens it, not to be inherited; an empty path is the folder itself.
pub(super) fn open(folder: impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, SysError> {
    let how = |more| {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | more;
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve)
    };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let open = |more| openat2(&folder, path, how(more)).map_err(SysError::of("openat2"));
    match open(ResolveFlag::RESOLVE_NO_XDEV) {
        // A folder of an autofs may be one where something would be mounted, although nobody is asked now.
        Err(crossed) if crossed.errno == Errno::EXDEV => {
            let found = open(ResolveFlag::empty())?;
            let is_same = mount::mount_id(found.as_fd())? == mount::mount_id(folder.as_fd())?;
            if is_same { Ok(found) } else { Err(crossed) }
        }
        opened => opened,
    }
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
