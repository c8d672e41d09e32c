//! A file that is open under one of its two names stays the same file.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (first, second) = (cx.path("first"), cx.path("second"));
    fs::write(&first, "")?;
    fs::hard_link(&first, &second)?;
    let mut file = OpenOptions::new().append(true).open(&second)?;
    cx.barrier()?;
    file.write_all(b"written")?;
    ensure_eq!(fs::read_to_string(&first)?, "written", "contents under the other name");
    ensure_eq!(file.metadata()?.nlink(), 2, "number of names");
    ensure_eq!(file.metadata()?.ino(), fs::metadata(&first)?.ino(), "inode");
    Ok(())
}
