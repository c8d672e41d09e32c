//! What is mounted on one of two peers is mounted on the other, before and after.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (one, other) = (mounting::new_tmpfs(cx, "one")?, mounting::folder(cx, "other")?);
    mounting::change(&one, MsFlags::MS_SHARED)?;
    mounting::bind(&one, &other)?;
    fs::create_dir(one.join("before"))?;
    fs::create_dir(one.join("after"))?;
    mounting::tmpfs(&one.join("before"), "")?;
    fs::write(one.join("before/file"), "text")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&other.join("before/file"), "text")?;
    mounting::tmpfs(&other.join("after"), "")?;
    ensure!(mounting::is_mounted(&one.join("after"))?, "a mount did not get to the peer");
    mounting::unmount(&one.join("before"))?;
    ensure!(!mounting::is_mounted(&other.join("before"))?, "a mount was not taken off the peer");
    Ok(())
}
