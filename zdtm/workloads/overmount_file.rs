//! A file that covers another.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let below = mounting::file(cx, "below")?;
    fs::write(&below, "below")?;
    let above = mounting::file(cx, "above")?;
    fs::write(&above, "above")?;
    mounting::bind(&above, &below)?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&below, "above")?;
    mounting::unmount(&below)?;
    mounting::ensure_text(&below, "below")
}
