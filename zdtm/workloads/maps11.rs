//! Guard regions fault, and the pages around them keep their contents.

use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

/// `MADV_GUARD_INSTALL` of madvise(2), Linux 6.13.
const GUARD_INSTALL: i32 = 102;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut mapping = Mapping::anonymous(6 * PAGE, READ_WRITE)?;
    mapping.bytes_mut().copy_from_slice(&pattern(1, 6 * PAGE));
    let guard = mapping.part(2 * PAGE, 2 * PAGE);
    // SAFETY: nobody looks at these pages again.
    Errno::result(unsafe { libc::madvise(guard.start.as_ptr(), guard.length, GUARD_INSTALL) })?;
    cx.barrier()?;
    let all = pattern(1, 6 * PAGE);
    check_pattern(mapping.part(0, 2 * PAGE).bytes(), 1, "pages before")?;
    zdtm::ensure!(mapping.part(4 * PAGE, 2 * PAGE).bytes() == &all[4 * PAGE..], "pages behind differ");
    for offset in [0, PAGE] {
        ensure_eq!(readable(guard.part(offset, PAGE)), Err(Errno::EFAULT), "reading a guard page");
    }
    ensure_eq!(readable(mapping.part(0, PAGE)), Ok(1), "reading another page");
    Ok(())
}

/// Has the kernel read a byte, which fails where we would fault.
fn readable(page: Mapping) -> Result<usize, Errno> {
    let (_reader, writer) = nix::unistd::pipe()?;
    // SAFETY: the kernel checks the address.
    Errno::result(unsafe { libc::write(writer.as_raw_fd(), page.start.as_ptr(), 1) }).map(|n| n as usize)
}
