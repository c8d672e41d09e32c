//! Mounts, for the workloads that have some: thin calls, and the tree of mounts as it can be compared.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// Makes a folder in the test's directory.
pub(crate) fn folder(cx: &Context, name: &str) -> Result<PathBuf, Failure> {
    let path = cx.path(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// Makes an empty file in the test's directory.
pub(crate) fn file(cx: &Context, name: &str) -> Result<PathBuf, Failure> {
    let path = cx.path(name);
    fs::write(&path, "")?;
    Ok(path)
}

/// Mounts a new tmpfs.
pub(crate) fn tmpfs(at: &Path, options: &str) -> Verdict {
    Ok(mount(Some("zdtm"), at, Some("tmpfs"), MsFlags::empty(), Some(options))?)
}

/// Makes a folder and mounts a new tmpfs there.
pub(crate) fn new_tmpfs(cx: &Context, name: &str) -> Result<PathBuf, Failure> {
    let path = folder(cx, name)?;
    tmpfs(&path, "size=1m")?;
    Ok(path)
}

/// Makes a file or folder appear at another place, too.
pub(crate) fn bind(from: &Path, to: &Path) -> Verdict {
    let none = None::<&str>;
    Ok(mount(Some(from), to, none, MsFlags::MS_BIND, none)?)
}

/// Makes a folder appear at another place, too, with all mounts below it.
pub(crate) fn bind_all(from: &Path, to: &Path) -> Verdict {
    let none = None::<&str>;
    Ok(mount(Some(from), to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?)
}

/// Changes flags of a mount, or how it propagates.
pub(crate) fn change(at: &Path, flags: MsFlags) -> Verdict {
    let none = None::<&str>;
    Ok(mount(none, at, none, flags, none)?)
}

/// Changes flags of a mount.
pub(crate) fn remount(at: &Path, flags: MsFlags) -> Verdict {
    change(at, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags)
}

/// Takes a mount off.
pub(crate) fn unmount(at: &Path) -> Verdict {
    Ok(umount2(at, MntFlags::MNT_DETACH)?)
}

/// Makes a bind of the root the new root, with the kernel's file systems and the test's directory moved there.
pub(crate) fn pivot_root(cx: &Context) -> Verdict {
    let new = Path::new("/mnt");
    bind(Path::new("/"), new)?;
    let none = None::<&str>;
    for place in ["/proc", "/dev", &cx.path("").display().to_string()] {
        let to = new.join(place.trim_matches('/'));
        mount(Some(Path::new(place)), &to, none, MsFlags::MS_MOVE, none)?;
    }
    nix::unistd::chdir(new)?;
    nix::unistd::pivot_root(".", ".")?;
    unmount(Path::new("."))?;
    Ok(nix::unistd::chdir(&cx.path(""))?)
}

/// Whether a folder is the root of a mount.
pub(crate) fn is_mounted(at: &Path) -> Result<bool, Failure> {
    let at = at.display().to_string();
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().any(|line| line.split(' ').nth(4) == Some(&at)))
}

/// The mounts that we see, in their order: each with the place of its parent in that order, and all that does not depend on
/// numbers that the kernel gives.
pub(crate) fn tree() -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let mut groups = Vec::new();
    let mut tree = Vec::new();
    for words in &lines {
        let parent = lines.iter().position(|other| other.first() == words.get(1));
        let facts = words.iter().skip(3).filter(|word| !word.starts_with("propagate_from:"));
        let facts: Vec<String> = facts.map(|word| with_own_number(word, &mut groups)).collect();
        tree.push(format!("{parent:?} {}", facts.join(" ")));
    }
    Ok(tree)
}

/// Peer groups get numbers in the order in which they are seen.
fn with_own_number<'a>(word: &'a str, groups: &mut Vec<&'a str>) -> String {
    // A pipe that is made again has another number.
    if let Some((others, _pipe)) = word.split_once(",pipe_ino=") {
        return others.to_owned();
    }
    let Some((kind @ ("shared" | "master"), group)) = word.split_once(':') else {
        return word.to_owned();
    };
    let known = groups.iter().position(|known| *known == group).unwrap_or_else(|| {
        groups.push(group);
        groups.len() - 1
    });
    format!("{kind}:{known}")
}

/// Waits for dump and restore; all mounts must be there again, and no others.
pub(crate) fn barrier(cx: &mut Context) -> Verdict {
    let before = tree()?;
    cx.barrier()?;
    ensure_eq!(tree()?, before, "mounts");
    Ok(())
}

/// Waits for dump and restore; what is mounted from outside must be the same file system of the host, too.
pub(crate) fn outside_barrier(cx: &mut Context) -> Verdict {
    let file = cx.path("outside/file");
    let device = fs::metadata(&file)?.dev();
    barrier(cx)?;
    ensure_text(&file, "from outside")?;
    ensure_eq!(fs::metadata(&file)?.dev(), device, "device of what is mounted from outside");
    Ok(())
}

/// Waits for dump and restore while a file covers another, or a thing of another type; then takes the mount off.
pub(crate) fn covered_barrier(cx: &mut Context, below: &Path) -> Verdict {
    let above = file(cx, "above")?;
    fs::write(&above, "above")?;
    bind(&above, below)?;
    barrier(cx)?;
    ensure_text(below, "above")?;
    unmount(below)
}

/// Fails unless a file has this text.
pub(crate) fn ensure_text(path: &Path, text: &str) -> Verdict {
    ensure_eq!(fs::read_to_string(path)?, text, format!("text of {}", path.display()));
    Ok(())
}

/// Fails unless a file cannot be written because what it is in is read-only.
pub(crate) fn ensure_read_only(path: &Path, what: &str) -> Verdict {
    let refused = fs::write(path, "").map_err(|e| e.raw_os_error());
    ensure_eq!(refused, Err(Some(libc::EROFS)), format!("writing to {what}"));
    Ok(())
}
