//! Processes that share root and working directory have sockets whose names were given below another root, and relative to
//! another directory: making them again moves neither.

use nix::sched::CloneFlags;
use nix::unistd::{chdir, chroot};
use std::path::Path;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let (jail, dir) = (cx.path("jail"), cx.path("dir"));
    for folder in [&jail, &dir] {
        std::fs::create_dir(folder)?;
    }
    chdir(&dir)?;
    let relative = unix::file(Path::new("relative.sock"))?;
    let by_relative = unix::listening(kind, &relative)?;
    let jailed = unix::file(Path::new("/jailed.sock"))?;
    // A thread goes below the other root, and leaves a socket there.
    let (from, name) = (jail.clone(), jailed);
    let by_jailed = std::thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        chroot(&from)?;
        unix::listening(kind, &name)
    });
    let by_jailed =
        by_jailed.join().map_err(|_panic| zdtm::workload::Failure::new("the thread panicked"))??;
    let sharing = cx.cloned_child(libc::CLONE_FS | libc::SIGCHLD, |cx| {
        cx.post("sharing")?;
        cx.park()?;
        cx.wait_for("looked")?;
        ensure_eq!(std::env::current_dir()?, dir, "working directory of who shares it");
        chdir(&jail)?;
        Ok(())
    })?;
    cx.wait_for("sharing")?;
    cx.barrier()?;
    ensure_eq!(std::env::current_dir()?, dir, "working directory");
    let addresses = [unix::file(Path::new("relative.sock"))?, unix::file(&jail.join("jailed.sock"))?];
    for ((listener, name), address) in
        [(&by_relative, relative), (&by_jailed, jailed)].into_iter().zip(addresses)
    {
        ensure_eq!(unix::name(listener)?, name, "name");
        let client = unix::connected(kind, &address)?;
        unix::talk(&client, &unix::accepted(listener)?)?;
    }
    cx.post("looked")?;
    sharing.join()?;
    ensure_eq!(std::env::current_dir()?, jail, "working directory, which the child changed");
    Ok(())
}
