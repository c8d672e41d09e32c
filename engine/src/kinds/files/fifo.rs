//! Fifos: pipes with a name.
//!
//! A description refers to the name, opened again as such, and to the pipe behind it, which all openers of the name have in
//! common. Opening one end waits for the other, so a fifo is opened while we hold both.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::messages::{FdTypes, FifoEntry, FileEntry};

use super::pipe_data::{self, Contents};
use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::NewImages;
use crate::procfs::link::Link;

/// Named pipes.
#[derive(Debug)]
pub struct Fifo;

/// Contents by the pipe's id.
#[derive(Debug, Default)]
struct Dumped(BTreeMap<u32, Contents>);

impl FileKind for Fifo {
    const NAME: &'static str = "fifo";
    const NOT_SAVED: &'static [&'static str] =
        &["what is in a fifo that no task of the tree has open for reading", "inode numbers"];
    const TYPE: FdTypes = FdTypes::Fifo;
    type Image = FifoEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        let named = matches!(fd.link(), Link::Path(_) | Link::Deleted(_) | Link::Unreachable(_));
        named && fd.file_type() == libc::S_IFIFO && !fd.is_path_only()
    }

    fn member(entry: &mut FileEntry) -> &mut Option<FifoEntry> {
        &mut entry.fifo
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<FifoEntry, Problem> {
        let pipe_id = fd.stat.st_ino as u32;
        let regf_id = cx.add_named(fd)?;
        let end = fd.dup()?;
        let (reads, _) = pipe_data::ends(fd.flags());
        if reads && !cx.state::<Dumped>().0.contains_key(&pipe_id) {
            let contents = Contents::read(end).while_trying_to("copy what is in the fifo")?;
            cx.state::<Dumped>().0.insert(pipe_id, contents);
        }
        Ok(FifoEntry { id, pipe_id, regf_id: Some(regf_id) })
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let fifos = std::mem::take(cx.state::<Dumped>()).0;
        pipe_data::write(images, &proto::catalogue::FIFO_DATA, &fifos)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &FifoEntry) -> Result<OwnedFd, Problem> {
        let file = cx.regular(image.regf_id.unwrap_or(0))?.clone();
        let path = OsStr::from_bytes(file.name.as_bytes());
        let about = || Object::Path(path.into());
        if !cx.state::<Restored>().0.contains_key(&image.pipe_id) {
            let both =
                nix::fcntl::open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty());
            let both = both.map_err(SysError::of("open")).about(about)?;
            let mut all = pipe_data::load(cx.images, &proto::catalogue::FIFO_DATA)?;
            if let Some(contents) = all.remove(&image.pipe_id) {
                contents.fill(both.as_fd()).about(about).while_trying_to("fill the fifo")?;
            }
            cx.state::<Restored>().0.insert(image.pipe_id, both);
        }
        let open = OFlag::from_bits_retain(file.flags as i32 & libc::O_ACCMODE)
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK;
        let fd = nix::fcntl::open(path, open, Mode::empty()).map_err(SysError::of("open")).about(about)?;
        set_common(fd.as_fd(), file.flags, Some(&file.fown))?;
        Ok(fd)
    }
}

/// Both ends of each fifo, held until all tasks have theirs.
#[derive(Debug, Default)]
struct Restored(BTreeMap<u32, OwnedFd>);
