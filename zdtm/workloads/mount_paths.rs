//! Mount points with names that mountinfo has to write in another way.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

/// Blanks, separators, the escape itself, and what is not ASCII.
const NAMES: [&str; 6] = ["a b", "tab\there", "back\\slash", "line\nbreak", "#sharp", "ü"];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    for name in NAMES {
        let path = mounting::new_tmpfs(cx, name)?;
        fs::write(path.join(name), name)?;
    }
    mounting::barrier(cx)?;
    for name in NAMES {
        mounting::ensure_text(&cx.path(name).join(name), name)?;
    }
    Ok(())
}
