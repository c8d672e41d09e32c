//! File locks that several processes and descriptions hold at once. The argument says how.

use std::fs::{File, OpenOptions};

use nix::errno::Errno;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::file_locks::{F_OFD_SETLK, flock, range};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    match cx.args().first().map(String::as_str) {
        Some("together") => together(cx, &open()?, &open()?, &open()?),
        Some("ranges") => ranges(cx, &open()?, &open()?, &open()?),
        _ => {
            let mine = open()?;
            range(&mine, F_OFD_SETLK, libc::F_WRLCK, 0, 0)?;
            let child = cx.child(|cx| {
                cx.wait_for("unlock")?;
                range(&mine, F_OFD_SETLK, libc::F_UNLCK, 0, 0)?;
                cx.post("unlocked")?;
                cx.wait_for("locked")
            })?;
            drop(mine);
            cx.barrier()?;
            let other = open()?;
            let refused = range(&other, F_OFD_SETLK, libc::F_RDLCK, 0, 1);
            ensure_eq!(refused, Err(Errno::EAGAIN), "a lock that the child has");
            cx.post("unlock")?;
            cx.wait_for("unlocked")?;
            range(&other, F_OFD_SETLK, libc::F_WRLCK, 0, 0)?;
            cx.post("locked")?;
            child.join()
        }
    }
}

/// Two processes share a lock, each by a description of its own.
fn together(cx: &mut Context, mine: &File, its: &File, other: &File) -> Verdict {
    flock(mine, libc::LOCK_SH)?;
    let child = cx.child(|cx| {
        flock(its, libc::LOCK_SH)?;
        cx.post("child-ready")?;
        cx.wait_for("end")?;
        Ok(flock(its, libc::LOCK_UN)?)
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    flock(other, libc::LOCK_SH)?;
    ensure_eq!(flock(other, libc::LOCK_EX), Err(Errno::EAGAIN), "a lock that two have");
    // A failed change has dropped the lock that was there.
    flock(mine, libc::LOCK_UN)?;
    ensure_eq!(flock(other, libc::LOCK_EX), Err(Errno::EAGAIN), "a lock that the child has");
    cx.post("end")?;
    child.join()?;
    Ok(flock(other, libc::LOCK_EX)?)
}

/// Two descriptions have locks on ranges, some in common; one of them is shared with a child.
fn ranges(cx: &mut Context, first: &File, second: &File, other: &File) -> Verdict {
    for start in [0, 20, 40] {
        range(first, F_OFD_SETLK, libc::F_RDLCK, start, 10)?;
        range(second, F_OFD_SETLK, libc::F_RDLCK, start + 5, 10)?;
    }
    range(second, F_OFD_SETLK, libc::F_WRLCK, 1000, 0)?;
    let child = cx.child(|cx| {
        cx.park()?;
        cx.wait_for("unlock")?;
        range(second, F_OFD_SETLK, libc::F_UNLCK, 0, 0)?;
        cx.post("unlocked")
    })?;
    cx.barrier()?;
    let writes = |start, len| range(other, F_OFD_SETLK, libc::F_WRLCK, start, len);
    for start in [0, 9, 14, 25, 49, 54, 1000, 1 << 40] {
        ensure_eq!(writes(start, 1), Err(Errno::EAGAIN), format!("byte {start}"));
    }
    for (start, len) in [(15, 5), (35, 5), (55, 945)] {
        ensure!(writes(start, len).is_ok(), "bytes from {start} on are nobody's");
    }
    range(other, F_OFD_SETLK, libc::F_RDLCK, 0, 15)?;
    ensure_eq!(range(other, F_OFD_SETLK, libc::F_RDLCK, 1000, 1), Err(Errno::EAGAIN), "reading at 1000");
    cx.post("unlock")?;
    cx.wait_for("unlocked")?;
    writes(1000, 0)?;
    writes(10, 10)?;
    ensure_eq!(writes(9, 1), Err(Errno::EAGAIN), "what the first description has alone");
    child.join()
}
