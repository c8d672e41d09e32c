//! Fifos: pipes with a name.
//!
//! A description refers to the name, opened again as such, and to the pipe behind it, which all openers of the name have in
//! common. Opening one end waits for the other, so a fifo is opened while we hold both.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::messages::{FdTypes, FifoEntry, FileEntry};

use super::pipe_data::{self, Contents};
use super::{FdFacts, FileKind, FilesDump, FilesRestore, mounted, remap, set_common};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::NewImages;
use crate::procfs::link::Link;

/// Named pipes.
#[derive(Debug)]
pub struct Fifo;

/// Pipes behind the names, by device and inode number, and their contents.
#[derive(Debug, Default)]
struct Dumped {
    ids: BTreeMap<(u64, u64), u32>,
    contents: BTreeMap<u32, Contents>,
}

impl Dumped {
    /// The id of a pipe: its inode number, where no other file system has the same.
    fn id(&mut self, inode: (u64, u64)) -> u32 {
        if let Some(id) = self.ids.get(&inode) {
            return *id;
        }
        let mut id = inode.1 as u32;
        while self.ids.values().any(|taken| *taken == id) {
            id = id.wrapping_add(1);
        }
        self.ids.insert(inode, id);
        id
    }
}

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

    fn member(entry: &mut FileEntry) -> &mut Option<Box<FifoEntry>> {
        &mut entry.fifo
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<FifoEntry, Problem> {
        let pipe_id = cx.state::<Dumped>().id((fd.stat.st_dev, fd.stat.st_ino));
        let regf_id = cx.add_named(fd)?;
        let end = fd.dup()?;
        let (reads, _) = pipe_data::ends(fd.flags());
        if reads && !cx.state::<Dumped>().contents.contains_key(&pipe_id) {
            let contents = Contents::read(end).while_trying_to("copy what is in the fifo")?;
            cx.state::<Dumped>().contents.insert(pipe_id, contents);
        }
        Ok(FifoEntry { id, pipe_id, regf_id: Some(regf_id) })
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let fifos = std::mem::take(cx.state::<Dumped>()).contents;
        pipe_data::write(images, &proto::catalogue::FIFO_DATA, &fifos)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &FifoEntry) -> Result<OwnedFd, Problem> {
        let file = cx.regular(image.regf_id.unwrap_or(0))?.clone();
        let mounted = mounted::path(cx, &file);
        let path = mounted.as_deref().unwrap_or(Path::new(&file.name));
        let about = || Object::Path(file.name.clone().into());
        let removed = remap::open(cx, &file).about(about)?;
        if !cx.state::<Restored>().0.contains_key(&image.pipe_id) {
            let both = match &removed {
                Some(both) => both.try_clone().map_err(SysError::io("dup"))?,
                None => open(path, OFlag::O_RDWR).about(about)?,
            };
            let mut all = pipe_data::load(cx.images, &proto::catalogue::FIFO_DATA)?;
            if let Some(contents) = all.remove(&image.pipe_id) {
                contents.fill(both.as_fd()).about(about).while_trying_to("fill the fifo")?;
            }
            cx.state::<Restored>().0.insert(image.pipe_id, both);
        }
        let fd = match removed {
            Some(both) => pipe_data::reopen(both.as_fd(), file.flags as i32).about(about)?,
            None => open(path, OFlag::from_bits_retain(file.flags as i32 & libc::O_ACCMODE)).about(about)?,
        };
        set_common(fd.as_fd(), file.flags, Some(&file.fown))?;
        Ok(fd)
    }
}

/// Opens a fifo without waiting for whoever has the other end.
fn open(path: &Path, access: OFlag) -> Result<OwnedFd, SysError> {
    let flags = access | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(SysError::of("open"))
}

/// Both ends of each fifo, held until all tasks have theirs.
#[derive(Debug, Default)]
struct Restored(BTreeMap<u32, OwnedFd>);
