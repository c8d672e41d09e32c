//! A part of the root's file system that is given again under a name.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (from, to) = (mounting::folder(cx, "from")?, mounting::folder(cx, "to")?);
    fs::write(from.join("file"), "text")?;
    mounting::bind(&from, &to)?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&to.join("file"), "text")?;
    fs::write(to.join("file"), "changed")?;
    mounting::ensure_text(&from.join("file"), "changed")
}
