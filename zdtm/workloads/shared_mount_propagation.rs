//! A tree of shared mounts, bound as a whole, goes on to share.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (one, other) = (mounting::new_tmpfs(cx, "one")?, mounting::folder(cx, "other")?);
    fs::create_dir(one.join("in"))?;
    mounting::tmpfs(&one.join("in"), "")?;
    fs::create_dir(one.join("in/place"))?;
    fs::create_dir(one.join("place"))?;
    mounting::change(&one, MsFlags::MS_SHARED | MsFlags::MS_REC)?;
    mounting::bind_all(&one, &other)?;
    mounting::tmpfs(&one.join("in/place"), "")?;
    fs::write(other.join("in/place/file"), "text")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&one.join("in/place/file"), "text")?;
    mounting::tmpfs(&other.join("place"), "")?;
    ensure!(mounting::is_mounted(&one.join("place"))?, "a mount did not get to the peer");
    Ok(())
}
