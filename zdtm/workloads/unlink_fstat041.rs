//! A file that was removed together with its folder, and the working directory in it, stay as they were.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (outer, inner) = (cx.path("outer"), cx.path("outer/inner"));
    fs::create_dir_all(&inner)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(inner.join("file"))?;
    file.write_all_at(b"contents", 0)?;
    std::env::set_current_dir(&inner)?;
    fs::remove_dir_all(&outer)?;
    let links = File::open(".")?.metadata()?.nlink();
    cx.barrier()?;
    ensure_eq!(outer.exists(), false, "whether the folder is there again");
    ensure_eq!(nix::unistd::getcwd(), Err(Errno::ENOENT), "the working directory");
    ensure_eq!(fs::metadata(".")?.nlink(), links, "links of the working directory");
    ensure_eq!(File::create("new").is_err(), true, "whether a file can be made in it");
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0)?;
    ensure_eq!(&bytes, b"contents", "contents");
    Ok(())
}
