//! Event counters keep their counts, their flags, and whether they are semaphores.

use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let plain = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK)?;
    plain.write(0x1_2345_6789)?;
    let semaphore = EventFd::from_value_and_flags(3, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE)?;
    let shared = plain.as_fd().try_clone_to_owned()?;
    cx.barrier()?;
    let mut count = [0; 8];
    nix::unistd::read(&shared, &mut count)?;
    ensure_eq!(u64::from_ne_bytes(count), 0x1_2345_6789, "count, read through a duplicate");
    ensure_eq!(plain.read(), Err(Errno::EAGAIN), "count after it was read");
    for _ in 0..3 {
        ensure_eq!(semaphore.read(), Ok(1), "one of three");
    }
    ensure_eq!(semaphore.read(), Err(Errno::EAGAIN), "after three of three");
    Ok(())
}
