//! Descriptors keep their numbers, also high ones with holes between.

use std::fs::{self, File};
use std::os::fd::{BorrowedFd, IntoRawFd as _};

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

const NUMBERS: [i32; 5] = [3, 7, 64, 255, 1000];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    for number in NUMBERS {
        let path = cx.path(&format!("file-{number}"));
        fs::write(&path, number.to_string())?;
        let file = File::open(&path)?;
        let lowest = file.into_raw_fd();
        if lowest != number {
            // SAFETY: the number is unused, and the file is not used through its old number again.
            Errno::result(unsafe { libc::dup2(lowest, number) })?;
            nix::unistd::close(lowest)?;
        }
    }
    cx.barrier()?;
    for number in NUMBERS {
        // SAFETY: the descriptor was made above and is never closed.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let mut bytes = [0; 8];
        let count = nix::unistd::read(fd, &mut bytes)?;
        ensure_eq!(bytes[..count], *number.to_string().as_bytes(), format!("contents of fd {number}"));
    }
    Ok(())
}
