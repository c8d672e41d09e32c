//! A watch on a file that was removed, and is still open, tells what happens to it, and its end.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::inotify::Instance;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("removed");
    fs::write(&path, "before")?;
    let mut held = OpenOptions::new().write(true).open(&path)?;
    let mut inotify = Instance::new()?;
    let wd = inotify.add(&path, libc::IN_ALL_EVENTS)?;
    fs::remove_file(&path)?;
    ensure_eq!(inotify.events()?, [(wd, libc::IN_ATTRIB, String::new())], "events of the removal");
    cx.barrier()?;
    ensure_eq!(inotify.events()?, [], "events that a restore made");
    held.write_all(b"after")?;
    ensure_eq!(inotify.events()?, [(wd, libc::IN_MODIFY, String::new())], "events of a write");
    drop(held);
    let masks: Vec<u32> = inotify.events()?.iter().map(|event| event.1).collect();
    ensure_eq!(masks, [libc::IN_CLOSE_WRITE, libc::IN_DELETE_SELF, libc::IN_IGNORED], "events of the end");
    Ok(())
}
