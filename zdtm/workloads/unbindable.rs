//! A mount of which no other can be made is such again.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (from, to) = (mounting::new_tmpfs(cx, "from")?, mounting::folder(cx, "to")?);
    fs::write(from.join("file"), "text")?;
    mounting::change(&from, MsFlags::MS_UNBINDABLE)?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&from.join("file"), "text")?;
    ensure!(mounting::bind(&from, &to).is_err(), "it can be bound");
    Ok(())
}
