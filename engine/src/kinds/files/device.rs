//! Other paths to a device (`--evasive-devices`): its node may have been removed, or be another one at restore.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::FilesDump;
use super::name::Seen;

/// How deep below `/dev` nodes are looked for.
const DEPTH: usize = 4;

/// Another node of the device that a file is, if the user said that any will do and its own name does not lead to it.
pub(super) fn other_node(cx: &FilesDump<'_>, seen: &Seen<'_>) -> Option<(String, libc::stat)> {
    let file_type = seen.file_type();
    if !cx.options.files.evasive_devices || !matches!(file_type, libc::S_IFCHR | libc::S_IFBLK) {
        return None;
    }
    let link = String::from_utf8_lossy(seen.link);
    let leads = fs::symlink_metadata(&*link).is_ok_and(|data| is_device(&data, file_type, seen.stat.st_rdev));
    if leads {
        return None;
    }
    let path = find(file_type, seen.stat.st_rdev)?.into_os_string().into_string().ok()?;
    let stat = nix::sys::stat::lstat(path.as_str()).ok()?;
    Some((path, stat))
}

/// A node below `/dev` for a device.
pub(super) fn find(file_type: u32, device: u64) -> Option<PathBuf> {
    find_in(Path::new("/dev"), file_type, device, DEPTH)
}

fn find_in(folder: &Path, file_type: u32, device: u64, depth: usize) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for item in fs::read_dir(folder).ok()?.flatten() {
        let Ok(data) = item.metadata() else { continue };
        if is_device(&data, file_type, device) {
            return Some(item.path());
        }
        if data.is_dir() && depth > 0 {
            folders.push(item.path());
        }
    }
    folders.iter().find_map(|folder| find_in(folder, file_type, device, depth - 1))
}

fn is_device(data: &fs::Metadata, file_type: u32, device: u64) -> bool {
    let right = match file_type {
        libc::S_IFBLK => data.file_type().is_block_device(),
        _ => data.file_type().is_char_device(),
    };
    right && data.rdev() == device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_their_number() {
        assert_eq!(find(libc::S_IFCHR, libc::makedev(1, 3)), Some("/dev/null".into()));
        assert_eq!(find(libc::S_IFBLK, libc::makedev(1, 300_000)), None);
    }
}
