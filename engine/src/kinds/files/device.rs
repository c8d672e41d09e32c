//! Devices: whether a node is the one it was, and other nodes of the same device (`--evasive-devices`).
//!
//! A name says little: the node may have been removed, or be another device's at restore. Images hold the number of each
//! device, but for those that have the same name everywhere.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use proto::messages::{RegFileEntry, StasisDeviceEntry};

use super::name::Seen;
use super::{FilesDump, FilesRestore};
use crate::error::{Class, Explain, Problem};
use crate::image::{Images, NewImages};

/// How deep below `/dev` nodes are looked for.
const DEPTH: usize = 4;

/// Names that stand for one device everywhere, and its minor number; the major one is 1.
const STANDARD: [(&str, u32); 6] = [
    ("/dev/null", 3),
    ("/dev/zero", 5),
    ("/dev/full", 7),
    ("/dev/random", 8),
    ("/dev/urandom", 9),
    ("/dev/kmsg", 11),
];

/// The device that a name stands for everywhere.
fn standard(name: &str) -> Option<u64> {
    let (_, minor) = STANDARD.iter().find(|(known, _)| *known == name)?;
    Some(libc::makedev(1, *minor))
}

/// Why a device cannot be opened again.
#[derive(Debug, thiserror::Error)]
pub enum DeviceRefusal {
    /// Its name is another's.
    #[error("it is device {}:{} and was {}:{}", libc::major(*is), libc::minor(*is), libc::major(*was), libc::minor(*was))]
    Another {
        /// When it was dumped.
        was: u64,
        /// Now.
        is: u64,
    },
}

impl Explain for DeviceRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some(
            "make the node again (mknod), or pass --evasive-devices if there is another for the device"
                .into(),
        )
    }
}

/// Whether a mode is that of a device.
fn is_device_mode(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK)
}

/// Numbers of devices of a tree that is being dumped.
#[derive(Debug, Default)]
struct Dumped(Vec<StasisDeviceEntry>);

/// Notes which device file `id` is, if it is one.
pub(super) fn note(cx: &mut FilesDump<'_>, id: u32, name: &str, stat: &libc::stat) {
    if is_device_mode(stat.st_mode) && standard(name) != Some(stat.st_rdev) {
        cx.state::<Dumped>().0.push(StasisDeviceEntry { file_id: id, rdev: stat.st_rdev });
    }
}

/// Writes `stasis-devices.img`, if there is anything to say.
pub(super) fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let entries = std::mem::take(&mut cx.state::<Dumped>().0);
    if entries.is_empty() { Ok(()) } else { images.write(&proto::catalogue::STASIS_DEVICES, 0, &entries) }
}

/// Numbers of devices in an image set.
#[derive(Debug, Default)]
pub struct Devices(HashMap<u32, u64>);

impl Devices {
    /// Reads `stasis-devices.img`, if there is one.
    pub fn read(images: &Images) -> Result<Self, Problem> {
        let image = &proto::catalogue::STASIS_DEVICES;
        let entries: Vec<StasisDeviceEntry> =
            if images.has(image, 0) { images.read(image, 0)? } else { Vec::new() };
        Ok(Self(entries.into_iter().map(|entry| (entry.file_id, entry.rdev)).collect()))
    }
}

/// Where the device of an entry is to be opened instead of at its name; an error if it is nowhere.
pub(super) fn elsewhere(
    cx: &FilesRestore<'_>,
    image: &RegFileEntry,
) -> Result<Option<PathBuf>, DeviceRefusal> {
    let Some(mode) = image.mode.filter(|mode| is_device_mode(*mode)) else { return Ok(None) };
    let known = cx.devices.0.get(&image.id).copied().or_else(|| standard(&image.name));
    let Some(was) = known else { return Ok(None) };
    let data = fs::symlink_metadata(&image.name).ok();
    if data.as_ref().is_some_and(|data| is_device(data, mode & libc::S_IFMT, was)) {
        return Ok(None);
    }
    let other = || find(mode & libc::S_IFMT, was);
    if let Some(path) = cx.options.files.evasive_devices.then(other).flatten() {
        return Ok(Some(path));
    }
    match data {
        Some(data) if is_device_mode(data.mode()) => Err(DeviceRefusal::Another { was, is: data.rdev() }),
        // That it is missing, or no device, is found out as for any file.
        _ => Ok(None),
    }
}

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
