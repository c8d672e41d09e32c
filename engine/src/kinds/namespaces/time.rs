//! Time namespaces: offsets of the monotonic and the boot clock (time_namespaces(7), Linux 5.6).
//!
//! Images have the clocks as they were seen inside. The offsets of the new namespace let them go on from there.

use std::os::fd::OwnedFd;

use proto::catalogue::TIMENS;
use proto::messages::{TimensEntry, Timespec};

use nix::sched::CloneFlags;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::procfs::link::NamespaceType;
use crate::procfs::timens_offsets::Offset;
use crate::time_spaces::{self, offset_line};

/// Time namespaces.
#[derive(Debug)]
pub struct TimeNamespace;

/// The clocks that a time namespace shifts, as we see them now.
pub fn clocks() -> Result<TimensEntry, Problem> {
    let read = |clock| -> Result<Timespec, Problem> {
        let time = clock_gettime(clock).map_err(SysError::of("clock_gettime"))?;
        Ok(Timespec { tv_sec: time.tv_sec() as u64, tv_nsec: time.tv_nsec() as u64 })
    };
    Ok(TimensEntry { monotonic: read(ClockId::CLOCK_MONOTONIC)?, boottime: read(ClockId::CLOCK_BOOTTIME)? })
}

impl NamespaceKind for TimeNamespace {
    const NAME: &'static str = "time-namespace";
    const TYPE: NamespaceType = NamespaceType::Time;

    /// The image is written for every tree, since one may be restored into a time namespace that had none.
    fn dump(_cx: NamespaceDump<'_>, _images: &mut NewImages) -> Result<(), Problem> {
        Ok(())
    }

    fn before_birth(cx: NamespaceRestore<'_>) -> Result<Vec<OwnedFd>, Problem> {
        const FILE: &str = "/proc/self/timens_offsets";
        let was: TimensEntry = cx.images.read_single(&TIMENS, 0)?;
        let is = clocks()?;
        let offset = |was: Timespec, is: Timespec| -> Result<TimeSpec, Problem> {
            let time = |t: Timespec| Some(TimeSpec::new(i64::try_from(t.tv_sec).ok()?, t.tv_nsec as i64));
            // As far as a clock of the kernel reaches (`KTIME_SEC_MAX`), none of this overflows.
            let fits = |t: &TimeSpec| {
                t.tv_sec() < i64::MAX / 1_000_000_000 && (0..1_000_000_000).contains(&t.tv_nsec())
            };
            let damaged = || invalid(&TIMENS, 0, "a clock shows an impossible time");
            let was = time(was).filter(fits).ok_or_else(damaged)?;
            let is = time(is).filter(fits).ok_or_else(damaged)?;
            Ok(was - is)
        };
        // Ours may have offsets, too: what is written counts from the initial one.
        let ours = time_spaces::own_offsets()?;
        let line = |clock: &str, by: TimeSpec, ours: Offset| {
            let ahead = |seconds, nanoseconds| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
            let by = ahead(by.tv_sec(), by.tv_nsec());
            offset_line(clock, by + ahead(ours.seconds, ours.nanoseconds.into()))
        };
        let text = line("monotonic", offset(was.monotonic, is.monotonic)?, ours.monotonic)
            + &line("boottime", offset(was.boottime, is.boottime)?, ours.boottime);
        let flag = CloneFlags::from_bits_retain(NamespaceType::Time.clone_flag());
        nix::sched::unshare(flag).map_err(SysError::of("unshare(CLONE_NEWTIME)"))?;
        std::fs::write(FILE, text).map_err(SysError::io("write")).about(|| Object::Path(FILE.into()))?;
        Ok(Vec::new())
    }

    fn restore(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
}
