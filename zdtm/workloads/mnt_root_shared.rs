//! The root of a mount namespace has peers: in another namespace of the tree, to which events go.

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

fn is_mounted(place: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(place))
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SHARED | MsFlags::MS_REC, none)?;
    // On the root itself, and not on the test's own mount.
    let place = "/mnt";
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        cx.post("apart")?;
        cx.wait_for("mounted")?;
        ensure!(is_mounted(place), "what is mounted on the root does not come here");
        umount2(place, MntFlags::empty())?;
        Ok(())
    })?;
    cx.wait_for("apart")?;
    cx.barrier()?;
    let root = fs::read_to_string("/proc/self/mountinfo")?;
    let root = root.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default().to_owned();
    ensure!(root.contains(" shared:"), "the root has no peers: {root}");
    ensure!(!is_mounted(place), "something is mounted already");
    mount(Some("events"), place, Some("tmpfs"), MsFlags::empty(), none)?;
    cx.post("mounted")?;
    child.join()?;
    ensure!(!is_mounted(place), "what is taken off there is still here");
    Ok(())
}
