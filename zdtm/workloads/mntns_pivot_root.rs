//! A root that took the place of another.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // The new root: the old one's file system, with the kernel's file systems moved there.
    let new = Path::new("/mnt");
    mounting::bind(Path::new("/"), new)?;
    let none = None::<&str>;
    for place in ["/proc", "/dev", &cx.path("").display().to_string()] {
        let to = new.join(place.trim_matches('/'));
        mount(Some(Path::new(place)), &to, none, MsFlags::MS_MOVE, none)?;
    }
    nix::unistd::chdir(new)?;
    nix::unistd::pivot_root(".", ".")?;
    mounting::unmount(Path::new("."))?;
    nix::unistd::chdir(&cx.path(""))?;
    let place = mounting::new_tmpfs(cx, "place")?;
    fs::write(place.join("file"), "text")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&place.join("file"), "text")?;
    ensure!(Path::new("/proc/self/exe").exists(), "proc is not there");
    Ok(())
}
