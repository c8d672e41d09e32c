//! The login user id is kept.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::write("/proc/self/loginuid", "4242")?;
    cx.barrier()?;
    ensure_eq!(fs::read_to_string("/proc/self/loginuid")?, "4242", "loginuid");
    Ok(())
}
