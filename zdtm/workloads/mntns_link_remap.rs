//! A file on a mount that has another name than the one it was opened by.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    let mut file = fs::File::create_new(place.join("file"))?;
    fs::hard_link(place.join("file"), place.join("other"))?;
    fs::remove_file(place.join("file"))?;
    mounting::barrier(cx)?;
    file.write_all(b"text")?;
    mounting::ensure_text(&place.join("other"), "text")?;
    ensure_eq!((file.metadata()?.nlink(), fs::read_dir(&place)?.count()), (1, 1), "names of the file");
    Ok(())
}
