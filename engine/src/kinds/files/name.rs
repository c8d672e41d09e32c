//! Whether a file can be found again by the name that the kernel shows for it.
//!
//! The name is a hint. What counts is whether it leads to the same inode now; a file may even be called `x (deleted)`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;

use super::ended::OfProcess;
use super::{FilesDump, remap};
use crate::error::{Class, Explain, Problem, SysError};
use crate::procfs::link::{self, Link};

/// A file as one of its users shows it.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// What the link in `/proc` says.
    pub link: &'a [u8],
    /// `stat(2)` of what it leads to.
    pub stat: &'a libc::stat,
    /// The link in `/proc` itself, which leads to the file whatever became of its name.
    pub reach: String,
    /// Whether the name was found to lead to it, so that nobody need look once more.
    pub leads: bool,
    /// How far it was read, by a descriptor.
    pub position: i64,
}

impl Seen<'_> {
    /// Device and inode number, which are one file's alone.
    pub fn inode(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The file type bits of its mode.
    pub fn file_type(&self) -> u32 {
        self.stat.st_mode & libc::S_IFMT
    }
}

/// Why a file cannot be found again.
#[derive(Debug, thiserror::Error)]
pub enum NameRefusal {
    /// It cannot be reached from the root.
    #[error("the file cannot be reached from the root directory")]
    Unreachable,
    /// Another file has its name, which was not taken away from it.
    #[error("another file has the name {} now, because something is mounted over it", String::from_utf8_lossy(name).escape_debug())]
    Covered {
        /// The name.
        name: Vec<u8>,
    },
    /// A file of procfs, which has no other name.
    #[error("it is {}, of a process that has ended, and was read in part or is not every process's", String::from_utf8_lossy(name).escape_debug())]
    Ended {
        /// The name.
        name: Vec<u8>,
    },
    /// It has other names, in another mount namespace.
    #[error(
        "its name was removed, but it has others, and is in another mount namespace than the root of the tree"
    )]
    LinkedElsewhere,
    /// Images hold names as UTF-8.
    #[error("its name is not UTF-8, which images cannot hold")]
    NotUtf8,
}

impl Explain for NameRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Covered { .. } => Some("unmount what covers it, or close the file first".into()),
            Self::Ended { .. } => {
                Some("close the file first, or lose it with --on-unsupported regular=close".into())
            }
            Self::Unreachable | Self::LinkedElsewhere | Self::NotUtf8 => None,
        }
    }
}

/// What became of a file's name.
#[derive(Debug, PartialEq, Eq)]
enum Standing<'a> {
    /// It leads to the file.
    Leads(&'a [u8]),
    /// The file has no name any more.
    Removed(&'a [u8]),
    /// It has another name, which nobody tells.
    Elsewhere(&'a [u8]),
    /// It is a file in `/proc` of this process, which has ended.
    Ended(&'a [u8], i32),
}

/// The name under which file `id` is found again; what stands in for the name is noted where it must.
pub(super) fn of_file(cx: &mut FilesDump<'_>, id: u32, seen: &Seen<'_>) -> Result<String, Problem> {
    let standing = standing(seen)?;
    let (Standing::Leads(name)
    | Standing::Removed(name)
    | Standing::Elsewhere(name)
    | Standing::Ended(name, _)) = standing;
    let text = std::str::from_utf8(name).map_err(|_not_utf8| Problem::new(NameRefusal::NotUtf8))?.to_owned();
    match standing {
        Standing::Leads(_) => {}
        Standing::Ended(_, pid) => remap::note_ended(cx, id, pid),
        Standing::Removed(_) => remap::note_removed(cx, id, seen)?,
        Standing::Elsewhere(_) => remap::note_linked(cx, id, Path::new(&text), seen)?,
    }
    Ok(text)
}

/// The name of a file which leads to another, because something is mounted over it.
pub(super) fn under_cover(seen: &Seen<'_>) -> Result<Option<String>, Problem> {
    let Link::Path(path) = link::parse(seen.link) else { return Ok(None) };
    if seen.stat.st_nlink == 0 || is_of_process(path) || leads_to(seen.link, seen)? {
        return Ok(None);
    }
    Ok(std::str::from_utf8(path).ok().map(str::to_owned))
}

fn standing<'a>(seen: &Seen<'a>) -> Result<Standing<'a>, Problem> {
    let leads = seen.leads || leads_to(seen.link, seen)?;
    let has_names = seen.stat.st_nlink > 0;
    match link::parse(seen.link) {
        _ if leads && is_silly_name(seen) => Ok(Standing::Removed(seen.link)),
        _ if leads => Ok(Standing::Leads(seen.link)),
        Link::Path(path) | Link::Deleted(path) if is_of_process(path) => ended(seen, path),
        Link::Path(path) if has_names => Err(Problem::new(NameRefusal::Covered { name: path.to_vec() })),
        Link::Deleted(path) if has_names && seen.file_type() != libc::S_IFDIR => {
            Ok(Standing::Elsewhere(path))
        }
        Link::Path(path) | Link::Deleted(path) => Ok(Standing::Removed(path)),
        // An executable that is a memory file is kept as a removed file of that name.
        Link::Memfd(_) => Ok(Standing::Removed(seen.link.strip_suffix(b" (deleted)").unwrap_or(seen.link))),
        _ => Err(Problem::new(NameRefusal::Unreachable)),
    }
}

/// A file of a process that has ended, or of a thread: it can be had again where every process has one.
fn ended<'a>(seen: &Seen<'_>, path: &'a [u8]) -> Result<Standing<'a>, Problem> {
    let known = std::str::from_utf8(path).ok().and_then(OfProcess::parse);
    match known.filter(|file| file.is_everyones() && seen.position == 0) {
        Some(file) => Ok(Standing::Ended(path, file.pid)),
        None => Err(Problem::new(NameRefusal::Ended { name: path.to_vec() })),
    }
}

/// Whether a name is that of a file of a process, as procfs is usually mounted.
fn is_of_process(path: &[u8]) -> bool {
    path.strip_prefix(b"/proc/").and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit)
}

/// Whether a path leads to the file.
fn leads_to(path: &[u8], seen: &Seen<'_>) -> Result<bool, Problem> {
    if !path.starts_with(b"/") {
        return Ok(false);
    }
    match nix::sys::stat::lstat(OsStr::from_bytes(path)) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == seen.inode()),
        // A name is too long by the suffix that says it was removed.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => Ok(false),
        Err(errno) => Err(Problem::new(SysError { call: "lstat", errno }).step("find the file by its name")),
    }
}

/// A name that an NFS client gives to a removed file which is still open; it goes with the last user.
fn is_silly_name(seen: &Seen<'_>) -> bool {
    let name = seen.link.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(b".nfs")
        && nix::sys::statfs::statfs(seen.reach.as_str())
            .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NFS_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// The standing of an open file, by a letter and the name.
    fn of(file: &File) -> (char, String) {
        let reach = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = fs::read_link(&reach).unwrap();
        let stat = nix::sys::stat::fstat(file).unwrap();
        let seen = Seen { link: link.as_os_str().as_bytes(), stat: &stat, reach, leads: false, position: 0 };
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        match standing(&seen).unwrap() {
            Standing::Leads(name) => ('l', text(name)),
            Standing::Removed(name) => ('r', text(name)),
            Standing::Elsewhere(name) => ('e', text(name)),
            Standing::Ended(name, _) => ('p', text(name)),
        }
    }

    #[test]
    fn what_became_of_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let shown = |name: &str| path(name).display().to_string();
        let file = File::create(path("a")).unwrap();
        assert_eq!(of(&file), ('l', shown("a")));
        fs::hard_link(path("a"), path("b")).unwrap();
        fs::remove_file(path("a")).unwrap();
        assert_eq!(of(&file), ('e', shown("a")));
        File::create(path("a (deleted)")).unwrap();
        assert_eq!(of(&file), ('e', shown("a")), "another file has the name with the suffix");
        fs::remove_file(path("b")).unwrap();
        assert_eq!(of(&file), ('r', shown("a")));
        let named = File::create(path("c (deleted)")).unwrap();
        assert_eq!(of(&named), ('l', shown("c (deleted)")));
        fs::create_dir(path("d")).unwrap();
        let folder = File::open(path("d")).unwrap();
        fs::remove_dir(path("d")).unwrap();
        fs::create_dir(path("d")).unwrap();
        assert_eq!(of(&folder), ('r', shown("d")));
    }
}
