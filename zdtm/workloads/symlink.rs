//! A file that was opened through a symbolic link stays open, and the link stays a link.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::symlink;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::write(cx.path("real"), "contents")?;
    symlink("real", cx.path("link"))?;
    let mut file = File::open(cx.path("link"))?;
    cx.barrier()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    ensure_eq!(text, "contents", "contents");
    ensure_eq!(fs::read_link(cx.path("link"))?.to_string_lossy(), "real", "the link");
    Ok(())
}
