//! Timer descriptors: `anon_inode:[timerfd]`.
//!
//! fdinfo shows the clock, how often the timer has expired unread, with which flags it was set, and what is left. A timer
//! with an interval that has expired is not armed again before somebody asks for it; `timerfd_gettime(2)` of a duplicate
//! does that, and changes nothing that could be seen.
//!
//! It is armed when all files are in their tasks, so that what the restore takes does not count.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::time::{ClockId, clock_gettime};
use proto::messages::{FdTypes, FileEntry, TimerfdEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, InTask, set_common};
use crate::dump::inspect::read_proc;
use crate::error::{Context as _, Problem, SysError};
use crate::procfs::ParseError;
use crate::procfs::fdinfo::{self, FdInfo};
use crate::procfs::link::Link;
use crate::sys::timer;

/// Timer descriptors.
#[derive(Debug)]
pub struct Timerfd;

const NANOSECONDS: u64 = 1_000_000_000;

impl FileKind for Timerfd {
    const NAME: &'static str = "timerfd";
    const NOT_SAVED: &'static [&'static str] = &[
        "the point in time of a timer that was set to one: what was left at the dump is left after the restore",
        "that the clock was set since (TFD_TIMER_CANCEL_ON_SET)",
    ];
    const TYPE: FdTypes = FdTypes::Timerfd;
    type Image = TimerfdEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"timerfd")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<TimerfdEntry>> {
        &mut entry.tfd
    }

    fn dump(_cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<TimerfdEntry, Problem> {
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let flags = fd.flags() as u32;
        let own = format!("/proc/self/fdinfo/{}", fd.dup()?.as_raw_fd());
        loop {
            timer::timerfd_gettime(fd.dup()?)?;
            let info = read_proc(own.clone(), fdinfo::parse)?;
            let entry = describe(&info).while_trying_to("read what is left")?;
            // It may have expired between the two.
            if (entry.vsec, entry.vnsec) != (0, 0) || (entry.isec, entry.insec) == (0, 0) {
                return Ok(TimerfdEntry { id, flags, fown, ..entry });
            }
        }
    }

    fn restore(_cx: &mut FilesRestore<'_>, image: &TimerfdEntry) -> Result<OwnedFd, Problem> {
        let fd = timer::timerfd_create(image.clockid.cast_signed())?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        Ok(fd)
    }

    fn connect(
        cx: &mut FilesRestore<'_>,
        _tasks: &mut dyn InTask,
        image: &TimerfdEntry,
    ) -> Result<(), Problem> {
        // One that nobody holds was not made.
        let Some(fd) = cx.opened(image.id) else { return Ok(()) };
        let (mut seconds, mut nanoseconds) = (image.vsec, image.vnsec);
        if image.settime_flags & libc::TFD_TIMER_ABSTIME as u32 != 0 && (seconds, nanoseconds) != (0, 0) {
            let now = now(image.clockid.cast_signed())?;
            nanoseconds = nanoseconds.saturating_add(now.tv_nsec() as u64);
            seconds = seconds.saturating_add(now.tv_sec() as u64).saturating_add(nanoseconds / NANOSECONDS);
            nanoseconds %= NANOSECONDS;
        }
        let spec = [image.isec, image.insec, seconds, nanoseconds];
        timer::timerfd_settime(fd, image.settime_flags, &spec)?;
        if image.ticks != 0 {
            timer::timerfd_set_ticks(fd, image.ticks)?;
        }
        Ok(())
    }
}

fn now(clock: i32) -> Result<nix::sys::time::TimeSpec, SysError> {
    // Alarm clocks tell the time of those that they wake up by.
    let clock = match clock {
        libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        libc::CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
        clock => clock,
    };
    clock_gettime(ClockId::from_raw(clock)).map_err(SysError::of("clock_gettime"))
}

/// All but id, flags and owner.
fn describe(info: &FdInfo) -> Result<TimerfdEntry, ParseError> {
    let [vsec, vnsec] = info.pair("it_value")?;
    let [isec, insec] = info.pair("it_interval")?;
    Ok(TimerfdEntry {
        clockid: info.decimal("clockid")?,
        ticks: info.decimal("ticks")?,
        settime_flags: info.octal("settime flags")?,
        vsec,
        vnsec,
        isec,
        insec,
        ..TimerfdEntry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_read() {
        let text =
            b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\nclockid: 7\nticks: 12\nsettime flags: 03\n\
            it_value: (1, 49406829)\nit_interval: (2, 0)\n";
        let entry = describe(&fdinfo::parse(text).unwrap()).unwrap();
        assert_eq!((entry.clockid, entry.ticks, entry.settime_flags), (7, 12, 3));
        assert_eq!((entry.vsec, entry.vnsec, entry.isec, entry.insec), (1, 49_406_829, 2, 0));
    }

    #[test]
    fn damage_is_an_error() {
        let text =
            b"pos:\t0\nflags:\t02\nmnt_id:\t15\nclockid: 7\nticks: 1\nit_value: 1\nit_interval: (2, 0)\n";
        assert!(describe(&fdinfo::parse(text).unwrap()).is_err());
    }
}
