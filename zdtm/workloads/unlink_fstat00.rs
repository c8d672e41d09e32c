//! A file that was removed while it was open keeps its contents, its inode's data, and stays removed.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;

use zdtm::workload::{Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const LENGTH: usize = 30_000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(&pattern(1, LENGTH))?;
    fs::remove_file(&path)?;
    let before = file.metadata()?;
    cx.barrier()?;
    let after = file.metadata()?;
    ensure!(!path.exists(), "the removed file is there again");
    let facts = |data: &fs::Metadata| (data.nlink(), data.len(), data.mode(), data.uid(), data.gid());
    ensure_eq!(facts(&after), facts(&before), "links, length, mode, owner");
    ensure_eq!(file.stream_position()?, LENGTH as u64, "position");
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    check_pattern(&bytes, 1, "contents")
}
