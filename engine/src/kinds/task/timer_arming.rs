//! How a POSIX timer is armed so that it goes on where it was; and which pending signals are those of timers.
//!
//! A timer whose signal is pending cannot be described by the time it has left: its signal is a part of the timer, which
//! is queued once, counts the expirations that it swallows, and is armed again when the signal is taken (`kernel/time/posix-timers.c`). So it is made to expire again: armed for a moment in the past that lies as many intervals
//! before the next expiration as have gone by.

use nix::time::{ClockId, clock_gettime};
use proto::messages::{PosixTimerEntry, SignalQueueEntry};

use crate::sys::ptrace::SIGINFO_SIZE;

/// `SI_TIMER` of `include/uapi/asm-generic/siginfo.h`.
const SI_TIMER: i32 = -2;
/// `TIMER_ABSTIME` of `include/uapi/linux/time.h`.
pub const TIMER_ABSTIME: i32 = 1;

const NANOSECONDS: i128 = 1_000_000_000;

/// `struct itimerspec`: interval and value, in seconds and nanoseconds.
pub type TimerSpec = [u64; 4];

fn word(info: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_le_bytes(info.get(at..at + 4)?.try_into().ok()?))
}

/// The timer that sent a signal, by its id.
pub fn sender(info: &[u8]) -> Option<u32> {
    // siginfo_t: signal, errno, code, padding; for timers: id, overrun, value, and a word of the kernel's own.
    (word(info, 8)? == SI_TIMER).then(|| word(info, 16).map(i32::cast_unsigned)).flatten()
}

/// A signal of a timer as anybody may send it: without the kernel's own word.
pub fn without_private_word(mut info: [u8; SIGINFO_SIZE]) -> [u8; SIGINFO_SIZE] {
    if sender(&info).is_some()
        && let Some(word) = info.get_mut(32..36)
    {
        word.fill(0);
    }
    info
}

/// Whether the signal of a timer is in a queue.
pub fn is_pending(timer: &PosixTimerEntry, queue: Option<&SignalQueueEntry>) -> bool {
    queue.is_some_and(|queue| queue.signals.iter().any(|signal| sender(&signal.siginfo) == Some(timer.it_id)))
}

/// With which a timer goes on as it was, from now; none for a timer that is not armed.
pub fn going_on(timer: &PosixTimerEntry) -> Option<TimerSpec> {
    let armed = (timer.vsec, timer.vnsec) != (0, 0);
    armed.then_some([timer.isec, timer.insec, timer.vsec, timer.vnsec])
}

/// With which, as an absolute time, a timer has expired already, and `overrun` times more than once.
pub fn expired(timer: &PosixTimerEntry, overrun: u32) -> TimerSpec {
    let interval = nanoseconds(timer.isec, timer.insec);
    let left = nanoseconds(timer.vsec, timer.vnsec);
    let past = match now(timer.clock_id.cast_signed()) {
        Some(now) if interval != 0 => now + left - interval * (i128::from(overrun) + 1),
        // A CPU clock begins anew with the process, so what was before cannot be said.
        _ => 1,
    };
    let past = past.max(1);
    [timer.isec, timer.insec, (past / NANOSECONDS) as u64, (past % NANOSECONDS) as u64]
}

fn nanoseconds(seconds: u64, nanoseconds: u64) -> i128 {
    i128::from(seconds) * NANOSECONDS + i128::from(nanoseconds)
}

/// The time of a clock that all processes share.
fn now(clock: i32) -> Option<i128> {
    // Alarm clocks tell the time of those that they wake up by.
    let clock = match clock {
        libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        libc::CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID | i32::MIN..0 => return None,
        clock => clock,
    };
    let time = clock_gettime(ClockId::from_raw(clock)).ok()?;
    Some(i128::from(time.tv_sec()) * NANOSECONDS + i128::from(time.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(clock_id: i32) -> PosixTimerEntry {
        PosixTimerEntry {
            clock_id: clock_id.cast_unsigned(),
            isec: 1,
            vsec: 0,
            vnsec: 250_000_000,
            ..PosixTimerEntry::default()
        }
    }

    #[test]
    fn an_expired_timer_keeps_its_phase() {
        let before = now(libc::CLOCK_MONOTONIC).unwrap();
        let [isec, insec, sec, nsec] = expired(&timer(libc::CLOCK_MONOTONIC), 0);
        assert_eq!((isec, insec), (1, 0));
        let ago = before - nanoseconds(sec, nsec);
        assert!((700_000_000..=750_000_000).contains(&ago), "{ago}");
    }

    #[test]
    fn a_cpu_clock_has_no_past() {
        assert_eq!(expired(&timer(-6), 3), [1, 0, 0, 1]);
        assert_eq!(expired(&timer(libc::CLOCK_MONOTONIC), u32::MAX), [1, 0, 0, 1]);
    }

    #[test]
    fn signals_of_timers_are_recognized() {
        let mut info = [0; SIGINFO_SIZE];
        info[0] = 40;
        info[8..12].copy_from_slice(&SI_TIMER.to_le_bytes());
        info[16] = 7;
        info[32] = 9;
        assert_eq!(sender(&info), Some(7));
        assert_eq!(without_private_word(info)[32], 0);
        info[8..12].copy_from_slice(&libc::SI_QUEUE.to_le_bytes());
        assert_eq!(sender(&info), None);
        assert_eq!(without_private_word(info)[32], 9);
        assert_eq!(sender(&[0; 9]), None);
    }
}
