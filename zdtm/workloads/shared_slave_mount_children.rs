//! Slaves that are shared themselves, with children that came from their master and others.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let master = mounting::new_tmpfs(cx, "master")?;
    for name in ["theirs", "own", "new"] {
        fs::create_dir(master.join(name))?;
    }
    mounting::change(&master, MsFlags::MS_SHARED)?;
    let (slave, peer) = (mounting::folder(cx, "slave")?, mounting::folder(cx, "peer")?);
    mounting::bind(&master, &slave)?;
    mounting::change(&slave, MsFlags::MS_SLAVE)?;
    mounting::change(&slave, MsFlags::MS_SHARED)?;
    mounting::bind(&slave, &peer)?;
    mounting::tmpfs(&master.join("theirs"), "")?;
    mounting::tmpfs(&slave.join("own"), "")?;
    fs::write(peer.join("own/file"), "own")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&slave.join("own/file"), "own")?;
    ensure!(!mounting::is_mounted(&master.join("own"))?, "a mount of a slave got to its master");
    mounting::unmount(&master.join("theirs"))?;
    ensure!(!mounting::is_mounted(&peer.join("theirs"))?, "a mount was not taken off the slave's peer");
    mounting::tmpfs(&master.join("new"), "")?;
    ensure!(mounting::is_mounted(&peer.join("new"))?, "a mount did not get to the slave's peer");
    Ok(())
}
