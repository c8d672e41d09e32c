//! Makes one file system, with fsopen(2).

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use super::flags;
use super::fs_types;
use super::plan::FileSystem;
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::procfs::id_map::{self, Extent, IdMaps};
use crate::sys::mount::NewFileSystem;

/// Why a file system cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("a file system of type {fstype} cannot be made{}: {error}", about(.option.as_deref()))]
pub(super) struct Unmakable {
    fstype: String,
    option: Option<String>,
    error: SysError,
}

fn about(option: Option<&str>) -> String {
    option.map_or_else(String::new, |option| format!(" with {option}"))
}

impl Explain for Unmakable {
    fn class(&self) -> Class {
        self.error.class()
    }
}

/// Types of which a file system belongs to the first user namespace wherever it is made (`fs_context.global`: their
/// `init_fs_context` of Linux 5.6 to 6.18): root of another one may give it flags at its birth only. Nothing is filled into these.
const GLOBAL: [&str; 4] = ["sysfs", "mqueue", "cgroup", "cgroup2"];

/// Makes it, and mounts it nowhere. Its flags come later as a rule, since most keep it from being filled. Owners in its options are
/// translated with these maps; empty ones do outside of user namespaces.
pub(super) fn make(file_system: &FileSystem, ids: &IdMaps) -> Result<OwnedFd, Problem> {
    let fstype = &file_system.fstype;
    let fail = |option: Option<&str>| {
        let (fstype, option) = (fstype.clone(), option.map(str::to_owned));
        move |error| Problem::new(Unmakable { fstype, option, error })
    };
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let new = NewFileSystem::open(&text(fstype)).map_err(fail(None))?;
    if !file_system.source.is_empty() {
        new.set(c"source", &text(&file_system.source)).map_err(fail(Some("source")))?;
    }
    let options = file_system.options.split(',').filter(|option| !option.is_empty());
    for option in options.filter(|option| fs_types::is_taken(fstype, option)) {
        let set = match option.split_once('=') {
            Some((key @ "uid", id)) => new.set(&text(key), &text(&inside(id, &ids.uids))),
            Some((key @ "gid", id)) => new.set(&text(key), &text(&inside(id, &ids.gids))),
            Some((key, value)) => new.set(&text(key), &text(value)),
            None => new.set_flag(&text(option)),
        };
        set.map_err(fail(Some(option)))?;
    }
    if GLOBAL.contains(&fstype.as_str()) {
        give_flags(&new, file_system).map_err(fail(None))?;
    }
    new.create().map_err(fail(None))?;
    new.mount().map_err(fail(None))
}

fn give_flags(new: &NewFileSystem, file_system: &FileSystem) -> Result<(), SysError> {
    flags::super_words(file_system.flags)
        .into_iter()
        .try_for_each(|word| new.set_flag(&CString::new(word).unwrap_or_default()))
}

/// Gives a file system its flags, if it has not got them yet.
pub(super) fn set_flags(mount: &OwnedFd, file_system: &FileSystem) -> Result<(), Problem> {
    if file_system.flags == 0 || GLOBAL.contains(&file_system.fstype.as_str()) {
        return Ok(());
    }
    let step = "set the flags of its file system";
    let picked = NewFileSystem::of_mount(mount.as_fd()).while_trying_to(step)?;
    give_flags(&picked, file_system).while_trying_to(step)?;
    picked.reconfigure().while_trying_to(step)
}

/// What an id outside is inside; one that has no place there stays what it is.
fn inside(id: &str, map: &[Extent]) -> String {
    // The way back tells an id that has no place from one that is the same as what is shown of those.
    let translated = id.parse().ok().and_then(|outside| {
        Some(id_map::inside(map, outside)).filter(|inside| id_map::outside(map, *inside) == outside)
    });
    translated.map_or_else(|| id.to_owned(), |id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_translated_where_there_is_a_map() {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        let map = [extent(0, 100_000, 1000), extent(2000, 0, 1)];
        for (outside, inside_is) in [("100005", "5"), ("0", "2000"), ("7", "7"), ("x", "x")] {
            assert_eq!(inside(outside, &map), inside_is);
        }
        // `nobody` has the id that is shown of those who have none.
        assert_eq!(inside("165534", &[extent(0, 100_000, 65536)]), "65534");
        assert_eq!(inside("5", &[]), "5");
    }
}
