//! A file that covers another.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let below = mounting::file(cx, "below")?;
    fs::write(&below, "below")?;
    mounting::covered_barrier(cx, &below)?;
    mounting::ensure_text(&below, "below")
}
