//! A folder that is bound to another place is the same folder there.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (from, to) = (mounting::new_tmpfs(cx, "from")?, mounting::folder(cx, "to")?);
    fs::create_dir(from.join("inner"))?;
    fs::write(from.join("inner/file"), "seen twice")?;
    mounting::bind(&from.join("inner"), &to)?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&to.join("file"), "seen twice")?;
    fs::write(to.join("file"), "changed")?;
    mounting::ensure_text(&from.join("inner/file"), "changed")
}
