//! The out-of-memory adjustment is kept.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::write("/proc/self/oom_score_adj", "321")?;
    cx.barrier()?;
    ensure_eq!(fs::read_to_string("/proc/self/oom_score_adj")?.trim(), "321", "oom_score_adj");
    Ok(())
}
