//! A removed file on a file system that is mounted read-only by now keeps its contents and its place.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use zdtm::workload::{Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const LENGTH: usize = 5000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let folder = cx.path("mounted");
    fs::create_dir(&folder)?;
    mount(Some("zoo"), &folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let verdict = (|| {
        let path = folder.join("file");
        fs::write(&path, pattern(1, LENGTH))?;
        let mut file = File::open(&path)?;
        fs::remove_file(&path)?;
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &folder, None::<&str>, read_only, None::<&str>)?;
        cx.barrier()?;
        let (data, place) = (file.metadata()?, fs::metadata(&folder)?);
        ensure_eq!((data.nlink(), data.dev()), (0, place.dev()), "links and device");
        ensure!(fs::read_dir(&folder)?.next().is_none(), "something is left in the folder");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        check_pattern(&bytes, 1, "contents")
    })();
    umount2(&folder, MntFlags::MNT_DETACH)?;
    verdict
}
