//! Descriptors that only name a file, a folder, or a symbolic link go on naming it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::write(cx.path("file"), "contents")?;
    fs::create_dir(cx.path("folder"))?;
    std::os::unix::fs::symlink("file", cx.path("link"))?;
    let open = |name: &str| -> Result<File, Failure> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        Ok(OpenOptions::new().read(true).custom_flags(flags).open(cx.path(name))?)
    };
    let files = [open("file")?, open("folder")?, open("link")?];
    let look = |file: &File| -> Result<_, Failure> {
        let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
        ensure!(flags.contains(OFlag::O_PATH), "O_PATH is lost: {flags:?}");
        Ok((file.metadata()?.ino(), file.metadata()?.mode(), flags))
    };
    let before = files.iter().map(look).collect::<Result<Vec<_>, _>>()?;
    cx.barrier()?;
    ensure_eq!(files.iter().map(look).collect::<Result<Vec<_>, _>>()?, before, "inodes, modes and flags");
    ensure_eq!(nix::unistd::read(&files[0], &mut [0; 1]), Err(Errno::EBADF), "reading");
    Ok(())
}
