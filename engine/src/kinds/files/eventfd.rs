//! Event counters: `anon_inode:[eventfd]`.
//!
//! Everything is in fdinfo: the counter, and since Linux 6.5 whether it is a semaphore. Older kernels do not tell the
//! latter, and neither has the image format a field for it: it is kept as the bit `EFD_SEMAPHORE` of the flags, which
//! no eventfd has otherwise, since all are opened for reading and writing.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use proto::messages::{EventfdFileEntry, FdTypes, FileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Context as _, Problem, SysError};
use crate::procfs::ParseError;
use crate::procfs::fdinfo::FdInfo;
use crate::procfs::link::Link;

/// Event counters.
#[derive(Debug)]
pub struct Eventfd;

/// The only bit that `eventfd2(2)` has for itself (`include/uapi/linux/eventfd.h`).
const SEMAPHORE: u32 = 1;

impl FileKind for Eventfd {
    const NAME: &'static str = "eventfd";
    const NOT_SAVED: &'static [&'static str] = &["that it is a semaphore, on kernels before 6.5"];
    const TYPE: FdTypes = FdTypes::Eventfd;
    type Image = EventfdFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"eventfd")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<EventfdFileEntry>> {
        &mut entry.efd
    }

    fn dump(_cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<EventfdFileEntry, Problem> {
        let (counter, semaphore) = counter(&fd.info).while_trying_to("read its counter")?;
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let flags = fd.flags() as u32 | if semaphore { SEMAPHORE } else { 0 };
        Ok(EventfdFileEntry { id, flags, fown, counter })
    }

    fn restore(_cx: &mut FilesRestore<'_>, image: &EventfdFileEntry) -> Result<OwnedFd, Problem> {
        let mut flags = EfdFlags::EFD_CLOEXEC;
        flags.set(EfdFlags::EFD_SEMAPHORE, image.flags & SEMAPHORE != 0);
        let event = EventFd::from_value_and_flags(0, flags).map_err(SysError::of("eventfd2"))?;
        if image.counter != 0 {
            event.write(image.counter).map_err(SysError::of("write")).while_trying_to("set its counter")?;
        }
        set_common(event.as_fd(), image.flags & !SEMAPHORE, Some(&image.fown))?;
        Ok(event.into())
    }
}

/// The counter, and whether it is a semaphore.
fn counter(info: &FdInfo) -> Result<(u64, bool), ParseError> {
    let semaphore = match info.value("eventfd-semaphore") {
        Some(_) => info.decimal::<u32>("eventfd-semaphore")? != 0,
        None => false,
    };
    Ok((info.hex("eventfd-count")?, semaphore))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::procfs::fdinfo;

    #[rstest]
    #[case("eventfd-count:               1e\neventfd-id: 3\neventfd-semaphore: 1\n", Some((0x1e, true)))]
    #[case("eventfd-count:                0\neventfd-id: 3\neventfd-semaphore: 0\n", Some((0, false)))]
    #[case("eventfd-count: fffffffffffffffe\neventfd-id: 3\n", Some((u64::MAX - 1, false)))]
    #[case("eventfd-count: x\n", None)]
    #[case("eventfd-id: 3\n", None)]
    fn counters(#[case] lines: &str, #[case] expected: Option<(u64, bool)>) {
        let text = format!("pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n{lines}");
        let info = fdinfo::parse(text.as_bytes()).unwrap();
        assert_eq!(counter(&info).ok(), expected);
    }
}
