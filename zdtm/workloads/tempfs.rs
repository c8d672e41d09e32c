//! Files of a tmpfs of the process's own are there again. The argument says what is special: nothing (`plain`), the file system
//! is read-only (`ro`), or only the mount is (`ro-mount`), or the process has a mount namespace of its own (`subns`).

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mounting;

const LENGTH: usize = 100_000;
/// Where data stands behind a hole.
const FAR: u64 = 1 << 20;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let sort = cx.args().first().cloned().unwrap_or_default();
    if sort == "subns" {
        unshare(CloneFlags::CLONE_NEWNS)?;
    }
    let place = mounting::folder(cx, "place")?;
    mounting::tmpfs(&place, "size=4m,mode=0750")?;
    fs::create_dir(place.join("folder"))?;
    let path = place.join("folder/file");
    fs::write(&path, pattern(3, LENGTH))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    fs::hard_link(&path, place.join("other"))?;
    std::os::unix::fs::symlink("folder/file", place.join("link"))?;
    let sparse = fs::File::create(place.join("sparse"))?;
    sparse.write_all_at(b"far", FAR)?;
    drop(sparse);
    let none = None::<&str>;
    match sort.as_str() {
        "ro" => mount(none, &place, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)?,
        "ro-mount" => mounting::remount(&place, MsFlags::MS_RDONLY)?,
        _ => {}
    }
    mounting::barrier(cx)?;
    check_pattern(&fs::read(&path)?, 3, "contents")?;
    let file = fs::metadata(&path)?;
    ensure_eq!(file.mode() & 0o7777, 0o640, "mode");
    ensure_eq!((file.ino(), file.nlink()), (fs::metadata(place.join("other"))?.ino(), 2), "the other name");
    ensure_eq!(fs::read_link(place.join("link"))?.as_os_str(), "folder/file", "link");
    let sparse = fs::metadata(place.join("sparse"))?;
    ensure_eq!((sparse.len(), sparse.blocks() <= 16), (FAR + 3, true), "a file with a hole");
    ensure_eq!(fs::metadata(&place)?.mode() & 0o7777, 0o750, "mode of the root");
    let written = fs::write(place.join("new"), "").map_err(|e| e.raw_os_error());
    ensure_eq!(written, if sort.starts_with("ro") { Err(Some(libc::EROFS)) } else { Ok(()) }, "writing");
    Ok(())
}
