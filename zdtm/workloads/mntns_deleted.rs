//! Mounts whose roots, a folder and a file, were removed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let source = mounting::new_tmpfs(cx, "source")?;
    fs::create_dir(source.join("folder"))?;
    fs::write(source.join("file"), "removed")?;
    let (folder, file) = (mounting::folder(cx, "folder")?, mounting::file(cx, "file")?);
    mounting::bind(&source.join("folder"), &folder)?;
    mounting::bind(&source.join("file"), &file)?;
    fs::remove_dir(source.join("folder"))?;
    fs::remove_file(source.join("file"))?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&file, "removed")?;
    ensure_eq!(fs::metadata(&file)?.nlink(), 0, "names of the file");
    ensure_eq!(fs::read_dir(&source)?.count(), 0, "files of the source");
    ensure!(fs::create_dir(folder.join("in")).is_err(), "a folder can be made in a removed one");
    Ok(())
}
