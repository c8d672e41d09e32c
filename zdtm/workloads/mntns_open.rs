//! A file and a folder that are open on a mount of their own.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    let mut file = fs::File::create(place.join("file"))?;
    file.write_all(b"before ")?;
    let folder = fs::File::open(&place)?;
    mounting::barrier(cx)?;
    file.write_all(b"after")?;
    mounting::ensure_text(&place.join("file"), "before after")?;
    ensure_eq!(folder.metadata()?.ino(), fs::metadata(&place)?.ino(), "inode of the folder");
    Ok(())
}
