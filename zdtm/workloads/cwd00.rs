//! The working directory is kept, each process its own.

use std::fs;
use std::path::Path;

use nix::unistd::{chdir, getcwd};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let folder = cx.path("folder");
    fs::create_dir(&folder)?;
    let child = cx.child(|cx| {
        chdir("/usr")?;
        cx.post("child-ready")?;
        cx.park()?;
        ensure_eq!(getcwd()?, Path::new("/usr"), "working directory of the child");
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    chdir(&folder)?;
    cx.barrier()?;
    ensure_eq!(getcwd()?, folder, "working directory");
    fs::write("relative", "")?;
    ensure_eq!(folder.join("relative").exists(), true, "a file made by its relative name");
    child.join()
}
