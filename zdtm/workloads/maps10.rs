//! Locks on memory stay as they are: at once, as pages are touched, and for what is mapped later.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, status_line};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const LENGTH: usize = 64 * PAGE;
/// `MLOCK_ONFAULT` of mlock2(2).
const ONFAULT: i32 = 1;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let at_once = Mapping::anonymous(LENGTH, READ_WRITE)?;
    let on_fault = Mapping::anonymous(LENGTH, READ_WRITE)?;
    // SAFETY: locks a mapping of ours.
    Errno::result(unsafe { libc::mlock(at_once.start.as_ptr(), LENGTH) })?;
    // SAFETY: as above.
    let locked = unsafe { libc::syscall(libc::SYS_mlock2, on_fault.start.as_ptr(), LENGTH, ONFAULT) };
    Errno::result(locked)?;
    // SAFETY: takes flags.
    Errno::result(unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT) })?;
    let before = locked_kb()?;
    cx.barrier()?;
    ensure_eq!(locked_kb()?, before, "kilobytes that are locked");
    let later = Mapping::anonymous(LENGTH, READ_WRITE)?;
    ensure_eq!(locked_kb()?, before + LENGTH as u64 / 1024, "the same, with a new mapping");
    ensure_eq!(resident(later)?, 0, "pages of the new mapping");
    ensure_eq!(resident(on_fault)?, 0, "pages of the one that is locked as they are touched");
    ensure_eq!(resident(at_once)?, LENGTH / PAGE, "pages of the one that is locked");
    Ok(())
}

fn locked_kb() -> Result<u64, Failure> {
    Ok(status_line("/proc/self/status", "VmLck")?.trim_end_matches(" kB").parse()?)
}

fn resident(mapping: Mapping) -> Result<usize, Failure> {
    let mut pages = vec![0_u8; mapping.length / PAGE];
    // SAFETY: the kernel writes one byte for each page.
    Errno::result(unsafe { libc::mincore(mapping.start.as_ptr(), mapping.length, pages.as_mut_ptr()) })?;
    Ok(pages.iter().filter(|page| **page & 1 != 0).count())
}
