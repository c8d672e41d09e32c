//! A removed file keeps owner, mode, times to the nanosecond, and extended attributes; its descriptors keep their flags.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all_at(b"contents", 0)?;
    std::os::unix::fs::fchown(&file, Some(1234), Some(4321))?;
    fs::set_permissions(&path, Permissions::from_mode(0o4751))?;
    set_attribute(&file)?;
    let flags = libc::O_APPEND | libc::O_NOFOLLOW | libc::O_NOATIME | libc::O_DSYNC;
    let second = OpenOptions::new().read(true).append(true).custom_flags(flags).open(&path)?;
    let path_only = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path)?;
    futimens(&file, &TimeSpec::new(1_000_000_000, 123_456_789), &TimeSpec::new(1_111_111_111, 987_654_321))?;
    fs::remove_file(&path)?;
    let look = || -> Result<_, Failure> {
        let data = file.metadata()?;
        let flags = |file: &File| fcntl(file, FcntlArg::F_GETFL);
        let times = (data.atime(), data.atime_nsec(), data.mtime(), data.mtime_nsec());
        let links = [&second, &path_only].map(|other| other.metadata().map(|d| d.ino() == data.ino()).ok());
        Ok((
            data.mode(),
            data.uid(),
            data.gid(),
            times,
            [flags(&file)?, flags(&second)?, flags(&path_only)?],
            links,
        ))
    };
    let before = look()?;
    cx.barrier()?;
    ensure_eq!(look()?, before, "mode, owner, times, flags, whether it is one file");
    ensure_eq!(attribute(&file)?, b"value\0with zero", "extended attribute");
    Ok(())
}

const VALUE: &[u8] = b"value\0with zero";

/// Root of a user namespace has no attributes that are for root alone.
fn attribute_name() -> &'static std::ffi::CStr {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.split_whitespace().eq(["0", "0", "4294967295"]) { c"trusted.zoo" } else { c"user.zoo" }
}

fn set_attribute(file: &File) -> Verdict {
    let name = attribute_name();
    // SAFETY: the name ends in a zero byte, and the kernel reads the value.
    let set =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), VALUE.as_ptr().cast(), VALUE.len(), 0) };
    nix::errno::Errno::result(set)?;
    Ok(())
}

fn attribute(file: &File) -> Result<Vec<u8>, Failure> {
    let mut value = vec![0_u8; 100];
    let name = attribute_name();
    // SAFETY: the name ends in a zero byte, and the kernel writes at most as many bytes as there are.
    let got =
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(nix::errno::Errno::result(got)? as usize);
    Ok(value)
}
