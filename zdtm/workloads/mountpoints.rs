//! File systems of many types, each with its options, and a tmpfs with all that files can be.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, mkfifo};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let of = |fstype: &str, options: &str| -> Result<PathBuf, Failure> {
        let path = mounting::folder(cx, fstype)?;
        mount(Some(fstype), &path, Some(fstype), MsFlags::MS_NOSUID, Some(options))?;
        Ok(path)
    };
    let (proc, sys) = (of("proc", "hidepid=1")?, of("sysfs", "")?);
    of("devtmpfs", "")?;
    of("devpts", "mode=600,ptmxmode=666")?;
    of("mqueue", "")?;
    let memory = of("ramfs", "")?;
    let files = of("tmpfs", "size=2m,nr_inodes=100,mode=1777")?;
    fs::write(memory.join("file"), "in memory")?;
    make_files(&files)?;
    let before = facts(&files)?;
    mounting::barrier(cx)?;
    ensure_eq!(facts(&files)?, before, "files");
    mounting::ensure_text(&files.join("soft"), "data")?;
    mounting::ensure_text(&memory.join("file"), "in memory")?;
    ensure!(proc.join("self").exists() && sys.join("kernel").exists(), "proc or sysfs is empty");
    Ok(())
}

fn make_files(dir: &Path) -> Verdict {
    let file = dir.join("file");
    fs::write(&file, "data")?;
    fs::hard_link(&file, dir.join("hard"))?;
    symlink("file", dir.join("soft"))?;
    mkfifo(&dir.join("fifo"), Mode::S_IRUSR)?;
    mknod(&dir.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3))?;
    nix::unistd::chown(&file, Some(Uid::from_raw(7)), Some(Gid::from_raw(8)))?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o4711))?)
}

fn facts(dir: &Path) -> Result<Vec<String>, Failure> {
    let fact = |name: &str| {
        let meta = fs::symlink_metadata(dir.join(name))?;
        let (mode, links, device) = (meta.mode(), meta.nlink(), meta.rdev());
        Ok(format!("{name} {mode:o} {}:{} {links} {device} {:?}", meta.uid(), meta.gid(), meta.modified()?))
    };
    ["file", "hard", "fifo", "null"].into_iter().map(fact).collect()
}
