//! A large mapping of which few pages were touched keeps them, and its size in memory.

use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern, status_line};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const LENGTH: usize = 1 << 30;
const STEP: usize = 1 << 24;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mapping = Mapping::anonymous(LENGTH, READ_WRITE)?;
    // SAFETY: the advice only concerns the size of pages, so that one touch is one small page.
    unsafe { libc::madvise(mapping.start.as_ptr(), LENGTH, libc::MADV_NOHUGEPAGE) };
    for place in (0..LENGTH).step_by(STEP) {
        mapping.part(place, PAGE).bytes_mut().copy_from_slice(&pattern(place as u64, PAGE));
    }
    let before = resident()?;
    cx.barrier()?;
    let after = resident()?;
    ensure!(after < before + 16 * 1024, "{after} kB are in memory, {before} before");
    for place in (0..LENGTH).step_by(STEP) {
        check_pattern(mapping.part(place, PAGE).bytes(), place as u64, "a touched page")?;
        ensure_eq!(mapping.part(place + 7 * PAGE, PAGE).bytes(), [0; PAGE], "an untouched page");
    }
    Ok(())
}

fn resident() -> Result<u64, Failure> {
    Ok(status_line("/proc/self/status", "VmRSS")?.trim_end_matches(" kB").parse()?)
}
