//! A watch on a file whose name the kernel has forgotten: it is looked for, and the watch goes on.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::inotify::Instance;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (folder, file) = (cx.path("deep/down"), cx.path("deep/down/file"));
    fs::create_dir_all(&folder)?;
    fs::write(&file, "before")?;
    let mut inotify = Instance::new()?;
    let on_file = inotify.add(&file, libc::IN_MODIFY)?;
    // Names that nobody uses are forgotten; the watch keeps the inode.
    cx.post("watched")?;
    cx.wait_for("forgotten")?;
    cx.barrier()?;
    fs::write(&file, "after")?;
    let events: Vec<(i32, u32)> = inotify.events()?.iter().map(|event| (event.0, event.1)).collect();
    // Emptied, and written to: equal events that follow each other are one.
    ensure_eq!(events, [(on_file, libc::IN_MODIFY)], "events of the file");
    Ok(())
}

/// Outside of the target, in whose user namespace nobody may do this: has the kernel forget what nobody uses.
pub(crate) fn forget(cx: &mut Context) -> Verdict {
    cx.wait_for("watched")?;
    fs::write("/proc/sys/vm/drop_caches", "2")?;
    cx.post("forgotten")
}
