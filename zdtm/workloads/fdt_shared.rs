//! Two processes share one descriptor table: what one opens, the other has.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::write(cx.path("first"), "one")?;
    fs::write(cx.path("second"), "two")?;
    let first = File::open(cx.path("first"))?;
    let child = cx.cloned_child(libc::CLONE_FILES | libc::SIGCHLD, |cx| {
        cx.post("child-ready")?;
        cx.park()?;
        let second = File::open(cx.path("second"))?.into_raw_fd();
        fs::write(cx.path("number.tmp"), second.to_string())?;
        fs::rename(cx.path("number.tmp"), cx.path("number"))?;
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    child.join()?;
    let number: i32 = fs::read_to_string(cx.path("number"))?.parse()?;
    // SAFETY: the child opened it in the table that both share, and never closes it.
    let second = unsafe { BorrowedFd::borrow_raw(number) };
    let mut bytes = [0; 3];
    nix::unistd::read(second, &mut bytes)?;
    ensure_eq!(bytes, *b"two", "what the child opened");
    ensure_eq!(nix::unistd::read(&first, &mut bytes)?, 3, "what the parent opened");
    ensure_eq!(first.as_raw_fd() + 1, number, "the next number of the shared table");
    Ok(())
}
