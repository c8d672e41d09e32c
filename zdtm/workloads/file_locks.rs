//! File locks stay with whoever had them. The argument says which sort.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) const F_OFD_SETLK: i32 = 37;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open()?;
    match cx.args().first().map(String::as_str) {
        Some("posix") => {
            range(&file, libc::F_SETLK, libc::F_WRLCK, 10, 20)?;
            range(&file, libc::F_SETLK, libc::F_RDLCK, 100, 0)?;
            cx.barrier()?;
            let child = cx.child(|_| {
                let other = open()?;
                ensure_eq!(
                    range(&other, libc::F_SETLK, libc::F_RDLCK, 29, 1),
                    Err(Errno::EAGAIN),
                    "the last byte"
                );
                range(&other, libc::F_SETLK, libc::F_WRLCK, 30, 70)?;
                range(&other, libc::F_SETLK, libc::F_RDLCK, 100, 0)?;
                ensure_eq!(
                    range(&other, libc::F_SETLK, libc::F_WRLCK, 1 << 40, 1),
                    Err(Errno::EAGAIN),
                    "far behind"
                );
                Ok(())
            })?;
            child.join()
        }
        Some("waiter") => {
            range(&file, libc::F_SETLK, libc::F_WRLCK, 0, 0)?;
            let child = cx.child(|cx| {
                let other = open()?;
                cx.post("child-ready")?;
                range(&other, libc::F_SETLKW, libc::F_WRLCK, 0, 0)?;
                ensure!(cx.posted("unlocked"), "it has got a lock that somebody had");
                Ok(())
            })?;
            cx.wait_for("child-ready")?;
            std::thread::sleep(std::time::Duration::from_millis(20));
            cx.barrier()?;
            cx.post("unlocked")?;
            range(&file, libc::F_SETLK, libc::F_UNLCK, 0, 0)?;
            child.join()
        }
        Some("description") => {
            range(&file, F_OFD_SETLK, libc::F_WRLCK, 5, 5)?;
            let child = cx.child(|cx| cx.park())?;
            cx.barrier()?;
            let other = open()?;
            ensure_eq!(range(&other, F_OFD_SETLK, libc::F_RDLCK, 9, 1), Err(Errno::EAGAIN), "its last byte");
            range(&other, F_OFD_SETLK, libc::F_WRLCK, 10, 0)?;
            child.join()
        }
        sort => {
            let operation = if sort == Some("shared") { libc::LOCK_SH } else { libc::LOCK_EX };
            let ended = sort == Some("ended");
            if ended {
                // Who takes it ends; the description lives on here.
                cx.child(|_| Ok(flock(&file, operation)?))?.join()?;
            } else {
                flock(&file, operation)?;
            }
            let child = cx.child(|cx| cx.park())?;
            let before = taker(&file)?;
            cx.barrier()?;
            if !ended {
                ensure_eq!(taker(&file)?, before, "the process that took it");
            }
            let other = open()?;
            ensure_eq!(
                flock(&other, libc::LOCK_EX),
                Err(Errno::EAGAIN),
                "an exclusive lock of somebody else"
            );
            let shared = flock(&other, libc::LOCK_SH);
            ensure_eq!(shared.is_ok(), operation == libc::LOCK_SH, "a shared lock of somebody else");
            child.join()
        }
    }
}

/// The process that took the only lock of a file, as fdinfo says.
fn taker(file: &File) -> Result<i32, Failure> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let line = info.lines().find(|line| line.starts_with("lock:")).unwrap_or_default();
    Ok(line.split_whitespace().nth(5).unwrap_or_default().parse()?)
}

pub(crate) fn flock(file: &File, operation: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) }).map(|_| ())
}

pub(crate) fn range(file: &File, command: i32, lock_type: i32, start: i64, len: i64) -> Result<(), Errno> {
    let lock = libc::flock { l_type: lock_type as i16, l_whence: 0, l_start: start, l_len: len, l_pid: 0 };
    // SAFETY: the kernel reads a live variable.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) }).map(|_| ())
}
