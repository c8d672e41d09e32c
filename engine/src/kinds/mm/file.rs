//! Mappings of files, private and shared.
//!
//! Pages of the file stay in the file; of a private mapping, the pages that were written to are the process's own and
//! are saved.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, status};
use crate::error::{Problem, SysError};
use crate::kinds::files::name::Seen;
use crate::kinds::files::{FilesDump, FilesRestore, regular};
use crate::procfs::link::{self, Link};
use crate::procfs::smaps::{SmapsVma, VmFlag};
use crate::tracee::batch::Batch;

/// What memory that is no file looks like: shared anonymous memory, rings of asynchronous I/O, huge pages.
const NAMELESS: [&[u8]; 3] = [b"/dev/zero (deleted)", b"/[aio] (deleted)", b"/anon_hugepage (deleted)"];

/// Mappings of files with a name, removed or not.
#[derive(Debug)]
pub struct FileMapping;

impl MappingKind for FileMapping {
    const NAME: &'static str = "file-mapping";

    fn claims(vma: &SmapsVma) -> bool {
        let path = vma.vma.path.as_slice();
        vma.vma.inode != 0
            && matches!(link::parse(path), Link::Path(_) | Link::Deleted(_))
            && !NAMELESS.contains(&path)
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0 && vma.status & status::MEMFD == 0
    }

    fn contents(vma: &SmapsVma) -> Contents {
        if vma.vma.perms.shared { Contents::None } else { Contents::OwnPages }
    }

    fn dump(cx: &mut FilesDump<'_>, pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        let shared = vma.vma.perms.shared;
        entry.status = status::REGULAR | if shared { status::FILE_SHARED } else { status::FILE_PRIVATE };
        // Only a file that was open for writing may be mapped so that it can be made writable later.
        let writable = shared && vma.flags.has(VmFlag::MayWrite);
        let flags = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", vma.vma.start, vma.vma.end);
        let id = file_id(cx, &link, vma, flags)?;
        if vma.vma.perms.exec {
            regular::note_code(cx, id, &link);
        }
        entry.shmid = id.into();
        entry.fdflags = Some(flags as u32);
        Ok(())
    }

    fn prepare(cx: &mut FilesRestore<'_>, vma: &VmaEntry, _vmas: &[&VmaEntry]) -> Result<(), Problem> {
        cx.open(vma.shmid as u32).map(|_| ()).map_err(|p| p.object(super::object(vma)))
    }

    fn restore<'fd>(
        cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        super::map_opened(cx, vma, prot, batch)
    }
}

/// A mapped file as `smaps` shows it: name, device, inode; and the flags it is to be opened with.
type Shown = (Vec<u8>, (u32, u32), u64, i32);

/// Mapped files that were met, and their ids.
#[derive(Debug, Default)]
struct Met(HashMap<Shown, u32>);

/// The id of the file behind a mapping.
///
/// A program has several mappings of each of its files, and so has every other task that runs it; to look through
/// `/proc/PID/map_files` costs more than all else that is done for a mapping. What `smaps` tells is enough to know a file
/// again, and mostly to find it.
fn file_id(cx: &mut FilesDump<'_>, link: &str, vma: &SmapsVma, flags: i32) -> Result<u32, Problem> {
    let Some(name) = plain_name(vma) else { return look_through(cx, link, flags) };
    let key = (name.to_vec(), vma.vma.dev, vma.vma.inode, flags);
    if let Some(id) = cx.state::<Met>().0.get(&key) {
        return Ok(*id);
    }
    let id = match nix::sys::stat::lstat(OsStr::from_bytes(name)) {
        // Some filesystems have a device for each subvolume, which smaps does not show: those are looked at below.
        Ok(stat) if (stat.st_dev, stat.st_ino) == (device(vma.vma.dev), vma.vma.inode) => cx.add_path(
            &Seen { link: name, stat: &stat, reach: link.to_owned(), leads: true, position: 0 },
            flags,
        )?,
        _ => look_through(cx, link, flags)?,
    };
    cx.state::<Met>().0.insert(key, id);
    Ok(id)
}

/// The name of a mapped file, if `smaps` shows it as it is: a newline reads like a backslash and three digits, and what was
/// removed may have had the name of another.
fn plain_name(vma: &SmapsVma) -> Option<&[u8]> {
    let Link::Path(name) = link::parse(&vma.vma.path) else { return None };
    (!name.contains(&b'\n') && !name.contains(&b'\\')).then_some(name)
}

fn device((major, minor): (u32, u32)) -> u64 {
    libc::makedev(major, minor)
}

fn look_through(cx: &mut FilesDump<'_>, link: &str, flags: i32) -> Result<u32, Problem> {
    let stat = nix::sys::stat::stat(link).map_err(SysError::of("stat(/proc/PID/map_files)"))?;
    let path = nix::fcntl::readlink(link).map_err(SysError::of("readlink(/proc/PID/map_files)"))?;
    cx.add_path(
        &Seen { link: path.as_bytes(), stat: &stat, reach: link.to_owned(), leads: false, position: 0 },
        flags,
    )
}
