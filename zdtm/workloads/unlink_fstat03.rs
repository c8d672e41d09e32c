//! A file that was removed under the name it was opened by, and has another, stays the file with the other name.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (path, other) = (cx.path("file"), cx.path("other"));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let reader = fs::File::open(&path)?;
    file.write_all_at(b"contents", 0)?;
    fs::hard_link(&path, &other)?;
    fs::remove_file(&path)?;
    let replaced = cx.args().iter().any(|arg| arg == "replaced");
    if replaced {
        fs::write(&path, "new file of the name")?;
    }
    cx.barrier()?;
    ensure_eq!(path.exists(), replaced, "whether the name is there");
    let inode = fs::metadata(&other)?.ino();
    ensure_eq!((file.metadata()?.ino(), reader.metadata()?.ino()), (inode, inode), "inode numbers");
    ensure_eq!(file.metadata()?.nlink(), 1, "links");
    file.write_all_at(b"CONT", 0)?;
    ensure_eq!(fs::read(&other)?, b"CONTents", "contents through the other name");
    if replaced {
        ensure_eq!(fs::read(&path)?, b"new file of the name", "the file that has the name");
    }
    Ok(())
}
