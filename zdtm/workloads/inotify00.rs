//! Watches keep their numbers, masks and targets, and nothing that a restore does is told as an event.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::inotify::Instance;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (folder, file) = (cx.path("folder"), cx.path("folder/file"));
    let (link, once) = (cx.path("link"), cx.path("once"));
    fs::create_dir(&folder)?;
    fs::write(&file, "before")?;
    fs::write(&once, "")?;
    std::os::unix::fs::symlink(&file, &link)?;
    // Open files and the directory that it stands in are opened again by a restore.
    let held = fs::File::open(&file)?;
    std::env::set_current_dir(&folder)?;
    let mut inotify = Instance::new()?;
    let program = inotify.add(&std::env::current_exe()?, libc::IN_OPEN)?;
    let gone = inotify.add(&link, libc::IN_OPEN)?;
    let on_folder = inotify.add(&folder, libc::IN_ALL_EVENTS)?;
    let on_file = inotify.add(&file, libc::IN_ALL_EVENTS)?;
    let on_link = inotify.add(&link, libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_DONT_FOLLOW)?;
    let on_once = inotify.add(&once, libc::IN_MODIFY | libc::IN_ONESHOT)?;
    ensure_eq!(gone, on_file, "the link leads to the file");
    inotify.remove(program)?;
    ensure_eq!(inotify.events()?.len(), 1, "events of the end of a watch");
    cx.barrier()?;
    ensure_eq!(inotify.events()?, [], "events that a restore made");
    fs::write(&file, "after")?;
    let events = inotify.events()?;
    let mut of_file: Vec<u32> =
        events.iter().filter(|event| event.0 == on_file).map(|event| event.1).collect();
    // Whether it is opened or emptied first differs by kernel.
    of_file.sort_unstable();
    ensure_eq!(
        of_file,
        [libc::IN_MODIFY, libc::IN_MODIFY, libc::IN_CLOSE_WRITE, libc::IN_OPEN],
        "events of the file"
    );
    let named = events.iter().filter(|event| event.0 == on_folder && event.2 == "file").count();
    ensure_eq!(named, 4, "events of the file, by its folder");
    drop(held);
    ensure_eq!(inotify.events()?.len(), 2, "events of a close");
    fs::write(&once, "1")?;
    ensure_eq!(
        inotify.events()?,
        [(on_once, libc::IN_MODIFY, String::new()), (on_once, libc::IN_IGNORED, String::new())],
        "events of a watch that ends by itself"
    );
    fs::remove_file(&link)?;
    let of_link: Vec<u32> = inotify.events()?.iter().map(|event| event.1).collect();
    ensure_eq!(of_link, [libc::IN_ATTRIB, libc::IN_DELETE_SELF, libc::IN_IGNORED], "events of the link");
    ensure_eq!(inotify.add(&file, libc::IN_OPEN)?, on_file, "the number of a watched file");
    ensure_eq!((on_folder, on_link), (on_file + 1, on_file + 2), "numbers");
    Ok(())
}
