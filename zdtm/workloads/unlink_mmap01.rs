//! A file that was removed while it was mapped, shared, by two processes stays one memory; a descriptor sees it, too.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use nix::sys::mman::MapFlags;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let keeps_descriptor = cx.args().iter().any(|arg| arg == "descriptor");
    let path = cx.path("file");
    fs::write(&path, pattern(1, 4 * PAGE))?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut mapping = Mapping::file(&file, 4 * PAGE, READ_WRITE, MapFlags::MAP_SHARED)?;
    let child = cx.child(|cx| {
        cx.park()?;
        cx.wait_for("written")?;
        check_pattern(&mapping.bytes()[..PAGE], 2, "what the parent wrote")
    })?;
    mapping.bytes_mut()[PAGE..2 * PAGE].copy_from_slice(&pattern(3, PAGE));
    fs::remove_file(&path)?;
    let file = keeps_descriptor.then_some(file);
    cx.barrier()?;
    zdtm::ensure!(!path.exists(), "the removed file is there again");
    ensure_eq!(mapping.bytes()[..PAGE], pattern(1, 4 * PAGE)[..PAGE], "what the file held");
    check_pattern(&mapping.bytes()[PAGE..2 * PAGE], 3, "what was written to the memory")?;
    mapping.bytes_mut()[..PAGE].copy_from_slice(&pattern(2, PAGE));
    cx.post("written")?;
    child.join()?;
    if let Some(file) = file {
        let mut bytes = vec![0; PAGE];
        file.read_exact_at(&mut bytes, 0)?;
        check_pattern(&bytes, 2, "the file")?;
    }
    Ok(())
}
