//! A peer that is mounted below its own peer.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let outer = mounting::new_tmpfs(cx, "outer")?;
    fs::create_dir_all(outer.join("in"))?;
    fs::create_dir_all(outer.join("place"))?;
    mounting::bind(&outer, &outer.join("in"))?;
    mounting::change(&outer, MsFlags::MS_SHARED)?;
    let third = mounting::folder(cx, "third")?;
    mounting::bind(&outer, &third)?;
    mounting::bind(&outer, &third.join("in"))?;
    mounting::barrier(cx)?;
    let before = mounting::tree()?.len();
    mounting::tmpfs(&outer.join("place"), "")?;
    ensure!(mounting::is_mounted(&third.join("place"))?, "a mount did not get to the peer");
    ensure!(mounting::tree()?.len() >= before + 3, "a mount did not get to the peer below");
    Ok(())
}
