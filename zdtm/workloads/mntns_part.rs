//! Mount namespaces of children, whose parent is in the host's: a slave of the host's, which two tasks are in, a peer, one with
//! another root, and a task with another root directory.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict};

use crate::mounting;

/// Makes a child in a mount namespace of its own, whose mounts are changed first; and waits until it is ready.
fn part(
    cx: &mut Context,
    name: &'static str,
    kind: MsFlags,
    body: impl FnOnce(&mut Context) -> Verdict,
) -> Result<Child, Failure> {
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        if !kind.is_empty() {
            mounting::change(Path::new("/"), MsFlags::MS_REC | kind)?;
        }
        body(cx)
    })?;
    cx.wait_for(name)?;
    Ok(child)
}

/// Waits for dump and restore with the same mounts, root and working directory.
fn park(cx: &mut Context, name: &str) -> Verdict {
    let see = || -> Result<_, Failure> {
        let root = fs::metadata("/")?;
        Ok((mounting::tree()?, (root.dev(), root.ino()), nix::unistd::getcwd()?))
    };
    let before = see()?;
    cx.post(name)?;
    cx.park()?;
    ensure_eq!(see()?, before, format!("what {name} sees"));
    Ok(())
}

fn slave(cx: &mut Context) -> Verdict {
    let (own, bound) = (mounting::new_tmpfs(cx, "own")?, mounting::folder(cx, "bound")?);
    fs::create_dir(own.join("folder"))?;
    fs::write(own.join("folder/file"), "of the part")?;
    fs::set_permissions(own.join("folder"), fs::Permissions::from_mode(0o700))?;
    mounting::bind(&cx.path("source"), &bound)?;
    mounting::remount(&bound, MsFlags::MS_RDONLY)?;
    let mut file = File::create(own.join("open"))?;
    nix::unistd::chdir(&own)?;
    let reader = cx.child(|cx| {
        let mut file = File::open("folder/file")?;
        file.read_exact(&mut [0; 3])?;
        cx.post("reader")?;
        cx.park()?;
        let mut rest = String::new();
        file.read_to_string(&mut rest)?;
        ensure_eq!(rest, "the part", "rest of the file");
        Ok(())
    })?;
    cx.wait_for("reader")?;
    park(cx, "slave")?;
    cx.post("slave-looked")?;
    reader.join()?;
    file.write_all(b"text")?;
    mounting::ensure_text(&own.join("open"), "text")?;
    mounting::ensure_text(&own.join("folder/file"), "of the part")?;
    mounting::ensure_text(&bound.join("file"), "of the host")?;
    mounting::ensure_read_only(&bound.join("file"), "the bind")?;
    cx.wait_for("mounted")?;
    mounting::ensure_text(&cx.path("outside/place/file"), "from outside")?;
    // Nobody else is told of this.
    mounting::tmpfs(&cx.path("outside/peer"), "")
}

/// Shares events with the host.
fn peer(cx: &mut Context) -> Verdict {
    park(cx, "peer")?;
    cx.wait_for("looked")?;
    cx.wait_for("slave-looked")?;
    mounting::tmpfs(&cx.path("outside/peer"), "")?;
    fs::write(cx.path("outside/peer/file"), "from the peer")?;
    Ok(())
}

fn pivoted(cx: &mut Context) -> Verdict {
    let dir = cx.path("");
    mounting::bind(&dir, &dir)?;
    mounting::pivot_root(cx)?;
    park(cx, "pivoted")?;
    mounting::ensure_text(Path::new("source/file"), "of the host")
}

fn chrooted(cx: &mut Context) -> Verdict {
    let root = mounting::folder(cx, "root")?;
    mounting::bind_all(Path::new("/"), &root)?;
    nix::unistd::chroot(&root)?;
    nix::unistd::chdir(&cx.path("source"))?;
    park(cx, "chrooted")?;
    mounting::ensure_text(Path::new("file"), "of the host")
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let outside = cx.path("outside");
    fs::create_dir(outside.join("peer"))?;
    fs::write(mounting::folder(cx, "source")?.join("file"), "of the host")?;
    let slave = part(cx, "slave", MsFlags::MS_SLAVE, slave)?;
    let others = [
        part(cx, "peer", MsFlags::empty(), peer)?,
        part(cx, "pivoted", MsFlags::MS_PRIVATE, pivoted)?,
        part(cx, "chrooted", MsFlags::MS_PRIVATE, chrooted)?,
    ];
    mounting::barrier(cx)?;
    cx.post("looked")?;
    ensure_eq!(fs::read_dir(cx.path("own"))?.count(), 0, "files of a part that the host sees");
    others.into_iter().try_for_each(Child::join)?;
    mounting::ensure_text(&outside.join("peer/file"), "from the peer")?;
    mounting::tmpfs(&outside.join("place"), "")?;
    fs::write(outside.join("place/file"), "from outside")?;
    cx.post("mounted")?;
    slave.join()?;
    mounting::ensure_text(&outside.join("peer/file"), "from the peer")
}
