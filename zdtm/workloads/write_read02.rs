//! What is written through a shared mapping is read through a descriptor, and the other way round.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use nix::sys::mman::MapFlags;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const LENGTH: usize = 16 * PAGE;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all_at(&pattern(1, LENGTH), 0)?;
    let mut mapping = Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_SHARED)?;
    cx.barrier()?;
    check_pattern(mapping.bytes(), 1, "mapping")?;
    mapping.bytes_mut().copy_from_slice(&pattern(2, LENGTH));
    let mut bytes = vec![0; LENGTH];
    file.read_exact_at(&mut bytes, 0)?;
    check_pattern(&bytes, 2, "file")?;
    file.write_all_at(b"through the file", 5000)?;
    ensure_eq!(mapping.bytes()[5000..5016], *b"through the file", "mapping after a write to the file");
    Ok(())
}
