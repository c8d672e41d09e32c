//! Signal descriptors: `anon_inode:[signalfd]`. All there is to one is its mask, which fdinfo shows; what is read from it
//! are the pending signals of whoever reads.

use std::os::fd::{AsFd as _, OwnedFd};

use proto::messages::{FdTypes, FileEntry, SignalfdEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Context as _, Problem};
use crate::procfs::link::Link;
use crate::sys::timer;

/// Signal descriptors.
#[derive(Debug)]
pub struct Signalfd;

impl FileKind for Signalfd {
    const NAME: &'static str = "signalfd";
    const TYPE: FdTypes = FdTypes::Signalfd;
    type Image = SignalfdEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"signalfd")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<SignalfdEntry>> {
        &mut entry.sgfd
    }

    fn dump(_cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<SignalfdEntry, Problem> {
        let sigmask = fd.info.hex("sigmask").while_trying_to("read its mask")?;
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        Ok(SignalfdEntry { id, flags: fd.flags() as u32, fown, sigmask })
    }

    fn restore(_cx: &mut FilesRestore<'_>, image: &SignalfdEntry) -> Result<OwnedFd, Problem> {
        let fd = timer::signalfd(image.sigmask)?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        Ok(fd)
    }
}
