//! Mappings of files, private and shared.
//!
//! Pages of the file stay in the file; of a private mapping, the pages that were written to are the process's own and
//! are saved.

use std::os::unix::ffi::OsStrExt as _;

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, status};
use crate::error::{Problem, SysError};
use crate::kinds::files::name::Seen;
use crate::kinds::files::{FilesDump, FilesRestore};
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
        let stat = nix::sys::stat::stat(link.as_str()).map_err(SysError::of("stat(/proc/PID/map_files)"))?;
        let path =
            nix::fcntl::readlink(link.as_str()).map_err(SysError::of("readlink(/proc/PID/map_files)"))?;
        entry.shmid = cx
            .add_path(&Seen { link: path.as_bytes(), stat: &stat, reach: link, position: 0 }, flags)?
            .into();
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
