//! A file that covers a device in /dev.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let below = Path::new("/dev/zero");
    mounting::covered_barrier(cx, below)?;
    ensure!(fs::symlink_metadata(below)?.file_type().is_char_device(), "what it covers is no device");
    Ok(())
}
