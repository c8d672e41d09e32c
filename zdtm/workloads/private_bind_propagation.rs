//! A private mount with peers among its children.

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
    mounting::change(&one.join("in"), MsFlags::MS_SHARED)?;
    mounting::bind_all(&one, &other)?;
    mounting::barrier(cx)?;
    mounting::tmpfs(&other.join("in/place"), "")?;
    ensure!(mounting::is_mounted(&one.join("in/place"))?, "a mount did not get to the peer");
    fs::create_dir(one.join("more"))?;
    mounting::tmpfs(&one.join("more"), "")?;
    ensure!(!mounting::is_mounted(&other.join("more"))?, "a mount left a private one");
    Ok(())
}
