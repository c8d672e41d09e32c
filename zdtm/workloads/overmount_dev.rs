//! A file that covers a device in /dev.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let below = PathBuf::from("/dev/zero");
    let above = mounting::file(cx, "above")?;
    fs::write(&above, "above")?;
    mounting::bind(&above, &below)?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&below, "above")?;
    mounting::unmount(&below)?;
    ensure!(fs::symlink_metadata(&below)?.file_type().is_char_device(), "what it covers is no device");
    Ok(())
}
