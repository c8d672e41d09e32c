//! Mappings of packet sockets: their rings. The socket itself is the kind of descriptor `packet`, and makes them.

use proto::messages::VmaEntry;

use super::{Contents, MappingKind, MappingRefusal, status};
use crate::error::Problem;
use crate::kinds::files::{FilesDump, FilesRestore, packet};
use crate::procfs::link::{Link, parse};
use crate::procfs::smaps::SmapsVma;
use crate::tracee::batch::Batch;

/// Mappings of packet sockets.
#[derive(Debug)]
pub struct PacketRings;

impl MappingKind for PacketRings {
    const NAME: &'static str = "packet-rings";
    const NOT_SAVED: &'static [&'static str] = &["what is in the rings"];

    fn claims(vma: &SmapsVma) -> bool {
        matches!(parse(&vma.vma.path), Link::Socket(_))
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::SOCKET != 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::None
    }

    fn dump(cx: &mut FilesDump<'_>, pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        let Link::Socket(ino) = parse(&vma.vma.path) else { return Err(MappingRefusal::NoKind.into()) };
        // Memory of sockets of other families looks the same.
        let id = packet::mapped(cx, pid, ino)?.ok_or_else(|| Problem::new(MappingRefusal::NoKind))?;
        entry.status = status::REGULAR | status::SOCKET | status::FILE_SHARED;
        entry.shmid = id.into();
        Ok(())
    }

    fn prepare(cx: &mut FilesRestore<'_>, vma: &VmaEntry, _vmas: &[&VmaEntry]) -> Result<(), Problem> {
        cx.open(vma.shmid as u32).map(drop)
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
