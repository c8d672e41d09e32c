//! Arguments, environment and auxiliary vector are where they were.

use std::fs;

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let before = read()?;
    ensure!(before[0].ends_with(b"first\0second word\0"), "unexpected arguments");
    cx.barrier()?;
    let after = read()?;
    ensure_eq!(after[0], before[0], "cmdline");
    ensure_eq!(after[1], before[1], "environ");
    ensure_eq!(after[2], before[2], "auxv");
    Ok(())
}

fn read() -> Result<[Vec<u8>; 3], Failure> {
    Ok([fs::read("/proc/self/cmdline")?, fs::read("/proc/self/environ")?, fs::read("/proc/self/auxv")?])
}
