//! The execution domain is kept.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const WANTED: i32 = libc::ADDR_NO_RANDOMIZE | libc::ADDR_COMPAT_LAYOUT;
/// Asks without changing anything (personality(2)).
const ASK: u64 = 0xffff_ffff;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    personality(WANTED as u64)?;
    cx.barrier()?;
    ensure_eq!(personality(ASK)?, WANTED, "personality");
    Ok(())
}

fn personality(domain: u64) -> Result<i32, Failure> {
    // SAFETY: the call takes a number.
    Ok(Errno::result(unsafe { libc::personality(domain) })?)
}
