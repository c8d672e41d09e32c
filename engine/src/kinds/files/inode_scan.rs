//! Looking for the name of an inode in directories, where nothing else tells it (`--force-irmap`, `--irmap-scan-path`).

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How many names are looked at for one inode: nobody waits for more while a tree stands still.
const MOST: usize = 4_000_000;

/// A name of an inode, on the filesystem of this device (major, minor), in one of these directories or below.
///
/// Directories near the beginning come first, and nothing that is mounted on the way is looked into.
pub(super) fn find(places: &[PathBuf], device: (u32, u32), number: u64) -> Option<PathBuf> {
    let place = |path: &Path| {
        let data = path.symlink_metadata().ok()?;
        Some(((libc::major(data.dev()), libc::minor(data.dev())), data.ino(), data.is_dir()))
    };
    let mut directories: VecDeque<PathBuf> = VecDeque::new();
    let mut left = MOST;
    let mut look = |path: PathBuf, directories: &mut VecDeque<PathBuf>| {
        left = left.checked_sub(1)?;
        let (on, inode, is_directory) = place(&path)?;
        if on == device && inode == number {
            return Some(path);
        }
        if on == device && is_directory {
            directories.push_back(path);
        }
        None
    };
    for path in places {
        if let Some(found) = look(path.clone(), &mut directories) {
            return Some(found);
        }
    }
    while let Some(directory) = directories.pop_front() {
        // One that is gone by now, or cannot be read, has no names for us.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if let Some(found) = look(entry.path(), &mut directories) {
                return Some(found);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_name_is_found_below_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (deep, file) = (dir.path().join("a/b/c"), dir.path().join("a/b/c/file"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(&file, "").unwrap();
        let data = fs::metadata(&file).unwrap();
        let device = (libc::major(data.dev()), libc::minor(data.dev()));
        let places = |path: &Path| vec![PathBuf::from("/nowhere"), path.to_owned()];
        assert_eq!(find(&places(dir.path()), device, data.ino()), Some(file.clone()));
        assert_eq!(find(&places(&file), device, data.ino()), Some(file));
        assert_eq!(find(&places(dir.path()), (device.0, device.1 + 1), data.ino()), None);
        assert_eq!(find(&places(dir.path()), device, 1), None);
    }
}
