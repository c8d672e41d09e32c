//! A read-only root that took the place of another.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use zdtm::ensure_eq;
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
    mounting::remount(Path::new("/"), MsFlags::MS_RDONLY)?;
    mounting::barrier(cx)?;
    let refused = fs::write("/zdtm-read-only", "").map_err(|e| e.raw_os_error());
    ensure_eq!(refused, Err(Some(libc::EROFS)), "writing to the root");
    Ok(())
}
