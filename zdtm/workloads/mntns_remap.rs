//! Files that are open on a mount which another covers as a whole.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    let mut file = fs::File::create(place.join("file"))?;
    let folder = fs::File::open(&place)?;
    mounting::tmpfs(&place, "")?;
    fs::write(place.join("file"), "upper")?;
    mounting::barrier(cx)?;
    file.write_all(b"lower")?;
    ensure_eq!(
        fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?.count(),
        1,
        "files in the folder"
    );
    mounting::ensure_text(&place.join("file"), "upper")?;
    mounting::unmount(&place)?;
    mounting::ensure_text(&place.join("file"), "lower")
}
