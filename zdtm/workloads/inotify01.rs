//! Watches in a file system of the tree's own: on a file and a folder that are in sight, and on ones that a mount covers.

use std::fs::{self, File};
use std::io::Write as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::inotify::Instance;
use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    let (seen, covered) = (place.join("seen"), place.join("covered"));
    fs::create_dir(&covered)?;
    let mut file = File::create(&seen)?;
    let mut hidden = File::create(covered.join("hidden"))?;
    let mut inotify = Instance::new()?;
    let mask = libc::IN_MODIFY | libc::IN_CREATE;
    let on_seen = inotify.add(&seen, mask)?;
    let on_place = inotify.add(&place, mask)?;
    let on_hidden = inotify.add(&covered.join("hidden"), mask)?;
    let on_covered = inotify.add(&covered, mask)?;
    mounting::tmpfs(&covered, "size=1m")?;
    mounting::barrier(cx)?;
    ensure_eq!(inotify.events()?, [], "events that a restore made");
    let event = |wd, mask, name: &str| (wd, mask, name.to_owned());
    file.write_all(b"x")?;
    let both = [event(on_place, libc::IN_MODIFY, "seen"), event(on_seen, libc::IN_MODIFY, "")];
    ensure_eq!(inotify.events()?, both, "events of a file in sight");
    hidden.write_all(b"x")?;
    let both = [event(on_covered, libc::IN_MODIFY, "hidden"), event(on_hidden, libc::IN_MODIFY, "")];
    ensure_eq!(inotify.events()?, both, "events of a file that is covered");
    fs::write(covered.join("above"), "")?;
    ensure_eq!(inotify.events()?, [], "events of the mount above");
    mounting::unmount(&covered)?;
    fs::write(covered.join("new"), "")?;
    ensure_eq!(inotify.events()?, [event(on_covered, libc::IN_CREATE, "new")], "events of the folder below");
    Ok(())
}
