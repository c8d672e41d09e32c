//! Peers of which one has a mount that the others have not.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let one = mounting::new_tmpfs(cx, "one")?;
    fs::create_dir_all(one.join("a"))?;
    fs::create_dir_all(one.join("b"))?;
    mounting::tmpfs(&one.join("a"), "")?;
    mounting::change(&one, MsFlags::MS_SHARED)?;
    let other = mounting::folder(cx, "other")?;
    mounting::bind(&one, &other)?;
    ensure!(!mounting::is_mounted(&other.join("a"))?, "a bind took more than one mount along");
    mounting::barrier(cx)?;
    ensure!(!mounting::is_mounted(&other.join("a"))?, "a mount is there that was not");
    mounting::tmpfs(&other.join("b"), "")?;
    ensure!(mounting::is_mounted(&one.join("b"))?, "a mount did not get to the peer");
    Ok(())
}
