//! A private file mapping that was written before it became read-only keeps what was written.

use std::fs::{self, File};

use nix::sys::mman::{MapFlags, ProtFlags};
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, pattern(1, 4 * PAGE))?;
    let file = File::open(&path)?;
    let mapping = Mapping::file(&file, 4 * PAGE, READ_WRITE, MapFlags::MAP_PRIVATE)?;
    mapping.part(PAGE, PAGE).bytes_mut().copy_from_slice(&pattern(2, PAGE));
    mapping.part(0, 2 * PAGE).protect(ProtFlags::PROT_READ)?;
    mapping.part(2 * PAGE, PAGE).protect(ProtFlags::PROT_NONE)?;
    cx.barrier()?;
    check_pattern(mapping.part(PAGE, PAGE).bytes(), 2, "the written page")?;
    mapping.protect(ProtFlags::PROT_READ)?;
    let original = pattern(1, 4 * PAGE);
    for page in [0, 2, 3] {
        let found = mapping.part(page * PAGE, PAGE);
        zdtm::ensure!(found.bytes() == &original[page * PAGE..][..PAGE], "page {page} of the file differs");
    }
    check_pattern(&fs::read(&path)?, 1, "the file itself")
}
