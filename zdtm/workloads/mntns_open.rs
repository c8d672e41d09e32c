//! A file open in a mount namespace of a child that its parent does not see, with a working directory there, and a peer of its parent's.

use std::fs;
use std::io::{Read as _, Write as _};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::getpid;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (own, shared) = (mounting::folder(cx, "own")?, mounting::new_tmpfs(cx, "shared")?);
    fs::create_dir(shared.join("place"))?;
    mounting::change(&shared, MsFlags::MS_SHARED)?;
    let child = cx.child(|cx| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        mounting::tmpfs(&own, "")?;
        fs::write(own.join("file"), "child")?;
        let mut file = fs::File::create(own.join("open"))?;
        let mut status = fs::File::open("/proc/self/status")?;
        nix::unistd::chdir(&own)?;
        let before = mounting::tree()?;
        cx.post("child-ready")?;
        cx.park()?;
        ensure_eq!(mounting::tree()?, before, "mounts of the child");
        mounting::ensure_text(&own.join("file"), "child")?;
        file.write_all(b"text")?;
        mounting::ensure_text(&own.join("open"), "text")?;
        ensure_eq!(nix::unistd::getcwd()?, own, "working directory of the child");
        let mut text = String::new();
        status.read_to_string(&mut text)?;
        ensure!(text.contains(&format!("\nPid:\t{}\n", getpid())), "an open status is another's:\n{text}");
        cx.post("child-looked")?;
        cx.wait_for("mounted")?;
        mounting::ensure_text(&shared.join("place/file"), "from the parent")
    })?;
    cx.wait_for("child-ready")?;
    mounting::barrier(cx)?;
    ensure_eq!(fs::read_dir(&own)?.count(), 0, "files of the child that the parent sees");
    cx.wait_for("child-looked")?;
    mounting::tmpfs(&shared.join("place"), "")?;
    fs::write(shared.join("place/file"), "from the parent")?;
    cx.post("mounted")?;
    child.join()?;
    mounting::unmount(&shared)
}
