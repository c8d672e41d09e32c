//! An overlay of folders of a tmpfs, in two mount namespaces: a child has mounted it, and the child's child has a copy.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

fn own_namespace() -> Verdict {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mounting::change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SLAVE)
}

fn copy(cx: &mut Context, over: &Path) -> Verdict {
    own_namespace()?;
    let mut file = File::create(over.join("copys"))?;
    let before = mounting::tree()?;
    cx.post("copy")?;
    cx.park()?;
    ensure_eq!(mounting::tree()?, before, "mounts of the copy");
    file.write_all(b"text")?;
    fs::write(over.join("device"), fs::metadata(over)?.dev().to_string())?;
    cx.post("copy-looked")?;
    cx.wait_for("mounted")?;
    mounting::ensure_text(&over.join("place/file"), "from the first")
}

fn first(cx: &mut Context) -> Verdict {
    own_namespace()?;
    let (layers, over) = (mounting::new_tmpfs(cx, "layers")?, mounting::folder(cx, "over")?);
    for folder in ["low", "low/place", "up", "work"] {
        fs::create_dir(layers.join(folder))?;
    }
    fs::write(layers.join("low/file"), "low")?;
    let path = layers.display();
    let options = format!("lowerdir={path}/low,upperdir={path}/up,workdir={path}/work");
    mount(Some("zdtm"), &over, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    mounting::change(&over, MsFlags::MS_SHARED)?;
    fs::write(over.join("file"), "up")?;
    let copy = cx.child(|cx| copy(cx, &over))?;
    cx.wait_for("copy")?;
    let before = mounting::tree()?;
    cx.post("first")?;
    cx.park()?;
    ensure_eq!(mounting::tree()?, before, "mounts of the first");
    cx.wait_for("copy-looked")?;
    mounting::ensure_text(&over.join("copys"), "text")?;
    mounting::ensure_text(&over.join("file"), "up")?;
    mounting::ensure_text(&layers.join("low/file"), "low")?;
    // Two overlays of the same folders would show the same files.
    mounting::ensure_text(&over.join("device"), &fs::metadata(&over)?.dev().to_string())?;
    mounting::tmpfs(&over.join("place"), "")?;
    fs::write(over.join("place/file"), "from the first")?;
    cx.post("mounted")?;
    copy.join()
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let first = cx.child(first)?;
    cx.wait_for("first")?;
    mounting::barrier(cx)?;
    first.join()
}
