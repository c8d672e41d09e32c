//! Shared, private and slave mounts of one file system, each with what the others do not see.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let shared = mounting::new_tmpfs(cx, "shared")?;
    for name in ["a", "b", "c"] {
        fs::create_dir(shared.join(name))?;
    }
    let (private, slave) = (mounting::folder(cx, "private")?, mounting::folder(cx, "slave")?);
    mounting::bind(&shared, &private)?;
    mounting::change(&private, MsFlags::MS_PRIVATE)?;
    mounting::change(&shared, MsFlags::MS_SHARED)?;
    mounting::bind(&shared, &slave)?;
    mounting::change(&slave, MsFlags::MS_SLAVE)?;
    mounting::tmpfs(&private.join("a"), "")?;
    mounting::tmpfs(&slave.join("b"), "")?;
    mounting::barrier(cx)?;
    ensure!(!mounting::is_mounted(&shared.join("a"))?, "a mount left a private one");
    ensure!(!mounting::is_mounted(&shared.join("b"))?, "a mount left a slave");
    mounting::tmpfs(&shared.join("c"), "")?;
    ensure!(mounting::is_mounted(&slave.join("c"))?, "a mount did not get to the slave");
    ensure!(!mounting::is_mounted(&private.join("c"))?, "a mount got to a private one");
    Ok(())
}
