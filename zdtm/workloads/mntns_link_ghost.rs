//! A file on a mount that had two names and has lost both.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    let mut file = fs::File::create_new(place.join("file"))?;
    let other = fs::File::open(place.join("file"))?;
    fs::hard_link(place.join("file"), place.join("other"))?;
    fs::remove_file(place.join("file"))?;
    fs::remove_file(place.join("other"))?;
    mounting::barrier(cx)?;
    file.write_all(b"text")?;
    ensure_eq!(fs::read_to_string(format!("/proc/self/fd/{}", other.as_raw_fd()))?, "text", "text");
    ensure_eq!((file.metadata()?.nlink(), fs::read_dir(&place)?.count()), (0, 0), "names of the file");
    Ok(())
}
