//! A mount that a daemon fills is refused, and the target runs on.

use std::os::fd::AsRawFd as _;

use nix::mount::{MsFlags, mount};
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::folder(cx, "place")?;
    let (reader, writer) = nix::unistd::pipe()?;
    let group = nix::unistd::getpgrp();
    let options = format!("fd={},pgrp={group},minproto=5,maxproto=5,indirect", writer.as_raw_fd());
    mount(Some("zdtm"), &place, Some("autofs"), MsFlags::empty(), Some(options.as_str()))?;
    cx.barrier()?;
    ensure!(mounting::is_mounted(&place)?, "it was unmounted");
    drop(reader);
    Ok(())
}
