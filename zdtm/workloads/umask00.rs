//! The file mode creation mask is kept.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::stat::{Mode, umask};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    umask(Mode::from_bits_truncate(0o345));
    cx.barrier()?;
    let path = cx.path("created");
    fs::write(&path, "")?;
    ensure_eq!(fs::metadata(&path)?.mode() & 0o777, 0o666 & !0o345, "mode of a new file");
    ensure_eq!(umask(Mode::empty()), Mode::from_bits_truncate(0o345), "umask");
    Ok(())
}
