//! A folder that is bound read-only is so again, and its file system is not.

use std::fs;

use nix::mount::MsFlags;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (from, to) = (mounting::new_tmpfs(cx, "from")?, mounting::folder(cx, "to")?);
    fs::write(from.join("file"), "text")?;
    mounting::bind(&from, &to)?;
    mounting::remount(&to, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&to.join("file"), "text")?;
    mounting::ensure_read_only(&to.join("file"), "the mount")?;
    fs::write(from.join("file"), "more")?;
    mounting::ensure_text(&to.join("file"), "more")
}
