//! The process id is the one that the program wrote into its own pid file.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("own.pid");
    fs::write(&path, std::process::id().to_string())?;
    cx.barrier()?;
    ensure_eq!(fs::read_to_string(&path)?, std::process::id().to_string(), "the pid file");
    ensure_eq!(fs::read_link("/proc/self")?.to_string_lossy(), std::process::id().to_string(), "/proc/self");
    Ok(())
}
