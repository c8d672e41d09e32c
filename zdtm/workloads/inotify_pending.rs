//! For events that nobody has read, a program that was restored finds an overflow, and then what comes after it; one that was
//! left running finds the events.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::inotify::Instance;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = cx.path("file");
    fs::write(&file, "")?;
    let mut full = Instance::new()?;
    let mut unwatched = Instance::new()?;
    let wd = full.add(&file, libc::IN_MODIFY)?;
    unwatched.remove(unwatched.add(&file, libc::IN_MODIFY)?)?;
    fs::write(&file, "something")?;
    let born = birth()?;
    cx.barrier()?;
    let overflow = (-1, libc::IN_Q_OVERFLOW, String::new());
    let restored = birth()? != born;
    let or = |event| [if restored { overflow.clone() } else { event }];
    let modified = (wd, libc::IN_MODIFY, String::new());
    ensure_eq!(full.events()?, or(modified), "what stands in for the events");
    ensure_eq!(
        unwatched.events()?,
        or((1, libc::IN_IGNORED, String::new())),
        "what stands in for the end of a watch"
    );
    fs::write(&file, "more")?;
    ensure_eq!(full.events()?, [(wd, libc::IN_MODIFY, String::new())], "events after it");
    ensure_eq!(full.add(&cx.path("."), libc::IN_OPEN)?, wd + 1, "the number of the next watch");
    Ok(())
}

/// When we were born: once more, if we were restored (field 22 of proc_pid_stat(5), the 20th behind the name).
fn birth() -> Result<String, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let field = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19));
    field.map(str::to_owned).ok_or_else(|| Failure::new("/proc/self/stat says nothing of the birth"))
}
