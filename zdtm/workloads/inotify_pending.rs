//! For events that nobody has read, a program that was restored finds an overflow, and then what comes after it.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::inotify::Instance;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = cx.path("file");
    fs::write(&file, "")?;
    let mut full = Instance::new()?;
    let mut unwatched = Instance::new()?;
    let wd = full.add(&file, libc::IN_MODIFY)?;
    unwatched.remove(unwatched.add(&file, libc::IN_MODIFY)?)?;
    fs::write(&file, "something")?;
    cx.barrier()?;
    let overflow = [(-1, libc::IN_Q_OVERFLOW, String::new())];
    ensure_eq!(full.events()?, overflow, "what stands in for the events");
    ensure_eq!(unwatched.events()?, overflow, "what stands in for the end of a watch");
    fs::write(&file, "more")?;
    ensure_eq!(full.events()?, [(wd, libc::IN_MODIFY, String::new())], "events after it");
    ensure_eq!(full.add(&cx.path("."), libc::IN_OPEN)?, wd + 1, "the number of the next watch");
    Ok(())
}
