//! A file that never had a name (`O_TMPFILE`) can still be given one.

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o640)
        .open(cx.path(""))?;
    file.write_all(b"contents")?;
    cx.barrier()?;
    ensure_eq!((file.metadata()?.nlink(), file.stream_position()?), (0, 8), "links and position");
    let path = cx.path("named");
    linkat(
        AT_FDCWD,
        format!("/proc/self/fd/{}", file.as_raw_fd()).as_str(),
        AT_FDCWD,
        &path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )?;
    ensure_eq!(fs::read(&path)?, b"contents", "contents");
    ensure_eq!(fs::metadata(&path)?.mode() & 0o7777, 0o640, "mode");
    Ok(())
}
