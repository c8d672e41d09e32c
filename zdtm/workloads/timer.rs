//! POSIX timers by their system calls, for workloads that want certain ids and no helper threads.

use std::mem::MaybeUninit;
use std::time::Duration;

use nix::errno::Errno;
use zdtm::workload::Failure;

/// From `include/uapi/linux/prctl.h`.
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;

/// Whom a timer tells.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notify {
    Nobody,
    Process(i32, usize),
    Thread(i32, usize, i32),
}

/// One timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer(pub(crate) i32);

/// What is left of a timer, and its interval.
pub(crate) type Setting = (Duration, Duration);

fn check(result: libc::c_long) -> Result<i32, Failure> {
    Ok(Errno::result(result as i32)?)
}

impl Timer {
    /// Makes a timer, with this id if the kernel takes one.
    pub(crate) fn create(clock: i32, notify: Notify, wanted: i32) -> Result<Self, Failure> {
        // struct sigevent: value, signal and notification, thread, padding.
        let mut event = [0_u64; 8];
        match notify {
            Notify::Nobody => event[1] = u64::from(libc::SIGEV_NONE as u32) << 32,
            Notify::Process(signal, value) => {
                event[0] = value as u64;
                event[1] = signal as u64 | u64::from(libc::SIGEV_SIGNAL as u32) << 32;
            }
            Notify::Thread(signal, value, tid) => {
                event[0] = value as u64;
                event[1] = signal as u64 | u64::from(libc::SIGEV_THREAD_ID as u32) << 32;
                event[2] = tid as u64;
            }
        }
        let mut id = wanted;
        // SAFETY: both places live during the call.
        check(unsafe { libc::syscall(libc::SYS_timer_create, clock, event.as_ptr(), &raw mut id) })?;
        Ok(Self(id))
    }

    /// Arms it, after a time or (with `TIMER_ABSTIME`) at a time.
    pub(crate) fn set(self, flags: i32, value: Duration, interval: Duration) -> Result<(), Failure> {
        let spec = libc::itimerspec { it_value: timespec(value), it_interval: timespec(interval) };
        // SAFETY: the new value lives during the call, the old one is not wanted.
        check(unsafe { libc::syscall(libc::SYS_timer_settime, self.0, flags, &raw const spec, 0) })?;
        Ok(())
    }

    /// What is left, and the interval.
    pub(crate) fn get(self) -> Result<Setting, Failure> {
        let mut spec = MaybeUninit::<libc::itimerspec>::zeroed();
        // SAFETY: the place is written during the call.
        check(unsafe { libc::syscall(libc::SYS_timer_gettime, self.0, spec.as_mut_ptr()) })?;
        // SAFETY: plain numbers, zeroed and then filled in by the kernel.
        let spec = unsafe { spec.assume_init() };
        Ok((duration(spec.it_value), duration(spec.it_interval)))
    }

    /// How often it expired beside the signal that was taken last.
    pub(crate) fn overrun(self) -> Result<i32, Failure> {
        // SAFETY: takes a number only.
        check(unsafe { libc::syscall(libc::SYS_timer_getoverrun, self.0) })
    }

    /// Deletes it.
    pub(crate) fn delete(self) -> Result<(), Failure> {
        // SAFETY: takes a number only.
        check(unsafe { libc::syscall(libc::SYS_timer_delete, self.0) }).map(|_| ())
    }
}

/// Whether `timer_create` takes ids from its caller from now on.
pub(crate) fn choose_ids(on: bool) -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, i32::from(on), 0, 0, 0) == 0 }
}

/// The time of a clock.
pub(crate) fn now(clock: i32) -> Result<Duration, Failure> {
    let time = nix::time::clock_gettime(nix::time::ClockId::from_raw(clock))?;
    Ok(Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32))
}

pub(crate) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

fn duration(time: libc::timespec) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Whether this process was made anew since then; a time at which the process began.
pub(crate) fn birth() -> Result<u64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    // Field 22, starttime, counted from the third.
    let start = fields.split_whitespace().nth(19).and_then(|start| start.parse().ok());
    start.ok_or_else(|| Failure::new("/proc/self/stat has no start time"))
}
