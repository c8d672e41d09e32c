//! A file that was removed while it was mapped, privately, stays mapped.

use std::fs::{self, File};

use nix::sys::mman::MapFlags;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, pattern(1, 4 * PAGE))?;
    let file = File::open(&path)?;
    let mapping = Mapping::file(&file, 4 * PAGE, READ_WRITE, MapFlags::MAP_PRIVATE)?;
    fs::remove_file(&path)?;
    drop(file);
    cx.barrier()?;
    zdtm::ensure!(!path.exists(), "the removed file is there again");
    check_pattern(mapping.bytes(), 1, "contents")
}
