//! Removed symbolic links and device nodes that a descriptor names go on being what they were.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use nix::fcntl::readlinkat;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn symbolic_link(cx: &mut Context) -> Verdict {
    let path = cx.path("link");
    std::os::unix::fs::symlink("nowhere/at/all", &path)?;
    let link = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(&path)?;
    fs::remove_file(&path)?;
    cx.barrier()?;
    ensure!(fs::symlink_metadata(&path).is_err(), "the removed link is there again");
    ensure!(link.metadata()?.is_symlink(), "it is no link any more");
    ensure_eq!(readlinkat(&link, "")?, "nowhere/at/all", "where it leads");
    Ok(())
}

pub(crate) fn device(cx: &mut Context) -> Verdict {
    let path = cx.path("node");
    mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o640), makedev(1, 3))?;
    let mut null = OpenOptions::new().write(true).open(&path)?;
    fs::remove_file(&path)?;
    let replaced = !cx.args().is_empty();
    if replaced {
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 5))?;
    }
    let look = |file: &File| -> Result<_, Failure> {
        let data = file.metadata()?;
        Ok((data.rdev(), data.mode(), data.nlink()))
    };
    let before = look(&null)?;
    cx.barrier()?;
    ensure!(path.exists() == replaced, "the removed node is there again, or its successor is gone");
    ensure_eq!(look(&null)?, before, "device, mode, links");
    null.write_all(b"into nothing")?;
    Ok(())
}
