//! Peers that show parts of a file system which nobody shows as a whole.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let whole = mounting::new_tmpfs(cx, "whole")?;
    fs::create_dir_all(whole.join("a/place"))?;
    fs::create_dir_all(whole.join("b/place"))?;
    mounting::change(&whole, MsFlags::MS_SHARED)?;
    let (a, b, more) =
        (mounting::folder(cx, "a")?, mounting::folder(cx, "b")?, mounting::folder(cx, "more")?);
    mounting::bind(&whole.join("a"), &a)?;
    mounting::bind(&whole.join("b"), &b)?;
    mounting::bind(&whole.join("a"), &more)?;
    mounting::unmount(&whole)?;
    mounting::barrier(cx)?;
    mounting::tmpfs(&a.join("place"), "")?;
    ensure!(mounting::is_mounted(&more.join("place"))?, "a mount did not get to the peer");
    ensure!(!mounting::is_mounted(&b.join("place"))?, "a mount got to another part");
    Ok(())
}
