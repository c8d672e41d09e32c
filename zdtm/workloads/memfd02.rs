//! A memory file that is mapped, shared and private, by two processes, is one file again; its descriptor is closed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::MapFlags;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const LENGTH: usize = 8 * PAGE;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = File::from(memfd_create("mapped", MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(&pattern(1, LENGTH), 0)?;
    let mut shared = Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_SHARED)?;
    let mut private = Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_PRIVATE)?;
    private.part(PAGE, PAGE).bytes_mut().copy_from_slice(&pattern(2, PAGE));
    drop(file);
    let child = cx.child(|cx| {
        cx.park()?;
        cx.wait_for("written")?;
        ensure_eq!(shared.bytes()[0], 42, "what the parent wrote");
        check_pattern(private.part(PAGE, PAGE).bytes(), 2, "the child's copied page")
    })?;
    cx.barrier()?;
    check_pattern(shared.bytes(), 1, "shared contents")?;
    check_pattern(private.part(PAGE, PAGE).bytes(), 2, "the copied page")?;
    shared.bytes_mut()[0] = 42;
    ensure_eq!(private.bytes_mut()[0], 42, "a page that was not copied");
    cx.post("written")?;
    child.join()
}
