//! Every status flag that a regular file can have is kept.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

const FLAGS: [i32; 8] = [
    libc::O_RDONLY,
    libc::O_RDONLY | libc::O_NOATIME,
    libc::O_RDWR | libc::O_NONBLOCK,
    libc::O_WRONLY | libc::O_APPEND,
    libc::O_RDWR | libc::O_SYNC,
    libc::O_WRONLY | libc::O_DSYNC,
    libc::O_RDWR | libc::O_DIRECT,
    libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_LARGEFILE,
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, "contents")?;
    let mut files = Vec::new();
    for flags in FLAGS {
        let mode = flags & libc::O_ACCMODE;
        let mut options = OpenOptions::new();
        options.read(mode != libc::O_WRONLY).write(mode != libc::O_RDONLY);
        match options.custom_flags(flags & !libc::O_ACCMODE).open(&path) {
            Ok(file) => files.push(file),
            // Not every file system knows direct input and output.
            Err(error)
                if flags & libc::O_DIRECT != 0 && error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let before = files.iter().map(|file| fcntl(file, FcntlArg::F_GETFL)).collect::<Result<Vec<_>, _>>()?;
    cx.barrier()?;
    let after = files.iter().map(|file| fcntl(file, FcntlArg::F_GETFL)).collect::<Result<Vec<_>, _>>()?;
    ensure_eq!(after, before, "status flags");
    Ok(())
}
