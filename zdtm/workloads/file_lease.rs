//! Leases stay with whoever had them. The arguments say which, and whether one is being broken.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    std::fs::write(&path, "contents")?;
    let is = |word: &str| cx.args().iter().any(|arg| arg == word);
    let (write, breaking) = (is("write"), is("breaking"));
    let held = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    let file = OpenOptions::new().read(true).write(write).open(&path)?;
    let set = |value: i32| -> Result<i32, Failure> {
        // SAFETY: takes numbers only.
        Ok(Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, value) })?)
    };
    let get = || -> Result<i32, Failure> {
        // SAFETY: takes numbers only.
        Ok(Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) })?)
    };
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    set(held)?;
    if breaking {
        cx.child(|_| {
            let opened = OpenOptions::new().write(true).open_nonblocking(&path);
            ensure_eq!(opened, Some(libc::EAGAIN), "opening a file with a lease");
            Ok(())
        })?
        .join()?;
    }
    let before = get()?;
    ensure_eq!(before == libc::F_UNLCK, breaking, "whether the lease is being broken");
    cx.barrier()?;
    ensure_eq!(get()?, before, "the lease");
    set(libc::F_UNLCK)?;
    ensure_eq!(OpenOptions::new().write(true).open_nonblocking(&path), None, "opening a file without lease");
    Ok(())
}

trait OpenNonblocking {
    fn open_nonblocking(&mut self, path: &std::path::Path) -> Option<i32>;
}

impl OpenNonblocking for OpenOptions {
    /// The error of an open that does not wait for a lease to be given up.
    fn open_nonblocking(&mut self, path: &std::path::Path) -> Option<i32> {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_NONBLOCK)
            .open(path)
            .err()?
            .raw_os_error()
    }
}
