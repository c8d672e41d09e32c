//! Making and entering namespaces; always in a child.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::SysError;
use crate::sys::probe;

use super::Answer;

fn answer(function: fn() -> Result<(), Errno>, call: &'static str) -> Answer {
    probe::in_child(function).and_then(|result| result.map_err(SysError::of(call))).into()
}

pub(super) fn user() -> Answer {
    answer(|| unshare(CloneFlags::CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
}

pub(super) fn cgroup() -> Answer {
    answer(|| unshare(CloneFlags::CLONE_NEWCGROUP), "unshare(CLONE_NEWCGROUP)")
}

pub(super) fn time() -> Answer {
    // CLONE_NEWTIME of linux/sched.h, which nix does not name.
    answer(|| unshare(CloneFlags::from_bits_retain(0x80)), "unshare(CLONE_NEWTIME)")
}

pub(super) fn external_net() -> Answer {
    answer(reenter_net, "setns(CLONE_NEWNET)")
}

fn reenter_net() -> Result<(), Errno> {
    let net = File::open("/proc/self/ns/net").map_err(number)?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    setns(net, CloneFlags::CLONE_NEWNET)
}

fn number(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

/// Mounts an overlay in a mount namespace of its own, maps a file of it, and compares what `/proc` shows.
pub(super) fn overlay_maps() -> Result<(), String> {
    match probe::in_child(map_overlay) {
        Ok(Ok(())) => Ok(()),
        // This one is ours: see below.
        Ok(Err(Errno::ENOTUNIQ)) => Err("a mapped file of an overlay shows as the file below it".to_owned()),
        Ok(Err(errno)) => Err(format!("overlay: {} ({errno:?})", errno.desc())),
        Err(e) => Err(e.to_string()),
    }
}

fn map_overlay() -> Result<(), Errno> {
    use std::os::unix::fs::MetadataExt as _;
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // Seen by this child only, and gone with it.
    mount(Some("check"), "/tmp", Some("tmpfs"), MsFlags::empty(), none)?;
    for dir in ["/tmp/l", "/tmp/u", "/tmp/w", "/tmp/m"] {
        std::fs::create_dir(dir).map_err(number)?;
    }
    std::fs::write("/tmp/l/file", [0; 4096]).map_err(number)?;
    let options = Some("lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w");
    mount(Some("check"), "/tmp/m", Some("overlay"), MsFlags::empty(), options)?;
    let path = Path::new("/tmp/m/file");
    let file = File::open(path).map_err(number)?;
    let mapping = probe::map_file(&file, 4096).map_err(|e| e.errno)?;
    let maps = std::fs::read("/proc/self/maps").map_err(number)?;
    let maps = crate::procfs::maps::parse(&maps).map_err(|_unreadable| Errno::EPROTO)?;
    let vma = maps.iter().find(|vma| vma.start == mapping).ok_or(Errno::ENOENT)?;
    let inode = std::fs::metadata(path).map_err(number)?.ino();
    if vma.inode == inode && vma.path == b"/tmp/m/file" { Ok(()) } else { Err(Errno::ENOTUNIQ) }
}
