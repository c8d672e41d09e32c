//! A folder that was removed while it was open stays open and removed.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("folder");
    fs::create_dir(&path)?;
    let folder = File::open(&path)?;
    fs::remove_dir(&path)?;
    let before = folder.metadata()?;
    cx.barrier()?;
    let after = folder.metadata()?;
    ensure!(after.is_dir() && !path.exists(), "the removed folder is there again");
    ensure_eq!((after.nlink(), after.mode()), (before.nlink(), before.mode()), "links and mode");
    ensure!(File::create(cx.path("folder/file")).is_err(), "a file was made in the removed folder");
    Ok(())
}
