//! The link to the executable leads to the same file.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let before = (fs::read_link("/proc/self/exe")?, fs::metadata("/proc/self/exe")?.ino());
    cx.barrier()?;
    let after = (fs::read_link("/proc/self/exe")?, fs::metadata("/proc/self/exe")?.ino());
    ensure_eq!(after, before, "/proc/self/exe");
    Ok(())
}
