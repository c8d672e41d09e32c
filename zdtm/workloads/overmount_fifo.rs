//! A file that covers a fifo.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let below = cx.path("below");
    mkfifo(&below, Mode::S_IRWXU)?;
    mounting::covered_barrier(cx, &below)?;
    ensure!(fs::symlink_metadata(&below)?.file_type().is_fifo(), "what it covers is no fifo");
    Ok(())
}
