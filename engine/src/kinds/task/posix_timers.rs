//! POSIX timers (`timer_create(2)`): which there are, `/proc/PID/timers` tells; what time is left, only the task itself.
//!
//! Ids are given as they were: by asking for them (`PR_TIMER_CREATE_RESTORE_IDS`, Linux 6.16), or by making and deleting
//! timers up to each. They are made in the order in which they were made, before any thread has its pending signals, and
//! are started last of all, so that what the restore takes does not count. One whose signal is pending is started with
//! that signal ([`timer_arming`](super::timer_arming)).
//!
//! A timer of `CLOCK_THREAD_CPUTIME_ID` runs by the clock of the thread that made it, and the kernel does not tell whose
//! that is. So each thread is asked alone: where the time left changes meanwhile, the clock is its own.

use proto::messages::{PosixTimerEntry, StasisTimerMaker};

use super::timer_arming::{self, TIMER_ABSTIME, TimerSpec};
use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::{Class, Context as _, Explain, Object, Problem};
use crate::pid_spaces::PidInside;
use crate::procfs::timers::{self, Timer};
use crate::sys::process;
use crate::tracee::batch::Batch;

/// POSIX timers.
#[derive(Debug)]
pub struct PosixTimers;

/// How the kernel writes `CLOCK_THREAD_CPUTIME_ID`: the clock of thread 0, which stands for the one that made the timer
/// (`include/linux/posix-timers.h`).
const OWN_CLOCK: i32 = -2;
/// Bits of a CPU clock's id below the process or thread, negated.
const CLOCK_BITS: u32 = 3;
/// Made and deleted up to an id, at most, where the kernel gives ids in their order only.
const MAX_STEPS: u32 = 1 << 16;

/// Why a timer cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum TimerRefusal {
    /// It runs by the clock of somebody else.
    #[error("it runs by the CPU clock of process or thread {0}, which is none of its process")]
    ForeignClock(i32),
    /// Nobody knows by whose clock it runs.
    #[error("it is not armed, and the kernel does not tell by which thread's CPU clock it runs")]
    UnknownThread,
    /// The id is out of reach.
    #[error("its id is too large for this kernel, which gives ids only in their order")]
    Id,
}

impl Explain for TimerRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::ForeignClock(_) => None,
            Self::UnknownThread => {
                Some("make it with the clock that pthread_getcpuclockid tells, or delete it".into())
            }
            Self::Id => Some("restore it on Linux 6.16 or later (PR_TIMER_CREATE_RESTORE_IDS)".into()),
        }
    }
}

fn object(id: u32) -> Object {
    Object::Named { kind: "POSIX timer", name: id.to_string() }
}

fn all(leader: &ThreadImage) -> &[PosixTimerEntry] {
    leader.tc.as_ref().and_then(|tc| tc.timers.as_ref()).map_or(&[], |timers| timers.posix.as_slice())
}

/// The thread that makes a timer.
fn maker(cx: ThreadRestore<'_>, timer: &PosixTimerEntry) -> i32 {
    let known = cx.leader.own.timer_makers.iter().find(|maker| maker.timer == timer.it_id);
    known.map_or(cx.pid, |maker| maker.tid.cast_signed())
}

/// The thread that gets the signal, and so arms the timer.
fn receiver(timer: &PosixTimerEntry, pid: i32) -> i32 {
    timer.notify_thread_id.unwrap_or(pid)
}

impl TaskKind for PosixTimers {
    const NAME: &'static str = "posix-timers";
    const NOT_SAVED: &'static [&'static str] = &[
        "whether a time was given as an absolute one, which follows a clock that is set",
        "expirations that a pending signal of a timer has swallowed so far",
        "how much of an interval of a CPU clock has passed while the timer's signal is pending",
    ];
    const SCOPE: Scope = Scope::Thread;
    const IDLE_IF_ZERO: Option<&'static [Field]> = Some(&[Field::new(
        &[Step::In("task_struct", "signal"), Step::Behind, Step::In("signal_struct", "posix_timers")],
        8,
    )]);
    const READS: &'static [&'static str] = &["timers"];

    fn look(task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        if thread.tid != task.pid {
            return Ok(());
        }
        let path = || Object::Path(format!("/proc/{}/timers", task.pid).into());
        let mut found = timers::parse(task.text("timers")?.as_bytes()).about(path)?;
        // The youngest is named first.
        found.reverse();
        // Whoever made the timer named the clock, so its numbers are those of its own namespace.
        let is_own = |pid: PidInside| {
            let ended = task.ended_leader.as_ref().map(|leader| leader.inside);
            ended == Some(pid) || task.threads.iter().any(|thread| thread.inside == pid)
        };
        let describe = |timer: &Timer| {
            describe(timer, is_own).map_err(|e| Problem::new(e).object(object(timer.id.cast_unsigned())))
        };
        let posix = found.iter().map(describe).collect::<Result<_, _>>()?;
        super::task(core).timers.get_or_insert_default().posix = posix;
        Ok(())
    }

    fn ask_alone(leader: &ThreadImage, tid: i32, questions: &mut Questions) {
        for timer in all(leader).iter().filter(|timer| timer.clock_id.cast_signed() == OWN_CLOCK) {
            let id = timer.it_id;
            questions.room(2, 64);
            let batch = questions.batch();
            let [before, after] = [batch.output::<TimerSpec>(), batch.output::<TimerSpec>()];
            batch.call("timer_gettime", libc::SYS_timer_gettime, args![id, before]);
            batch.call("timer_gettime", libc::SYS_timer_gettime, args![id, after]);
            questions.then(move |replies, core| {
                let [_, _, seconds, nanoseconds] = replies.output(before)?;
                if (seconds, nanoseconds) == (0, 0) {
                    return Err(Problem::new(TimerRefusal::UnknownThread).object(object(id)));
                }
                if replies.output(after)? != replies.output(before)? {
                    core.own.timer_makers.push(StasisTimerMaker { timer: id, tid: tid.cast_unsigned() });
                }
                Ok(())
            });
        }
    }

    fn ask_last(leader: &ThreadImage, questions: &mut Questions) {
        for (at, timer) in all(leader).iter().enumerate() {
            questions.room(2, 32);
            let batch = questions.batch();
            let spec = batch.output::<TimerSpec>();
            batch.call("timer_gettime", libc::SYS_timer_gettime, args![timer.it_id, spec]);
            let overrun = batch.call("timer_getoverrun", libc::SYS_timer_getoverrun, args![timer.it_id]);
            questions.then(move |replies, core| {
                let [isec, insec, vsec, vnsec] = replies.output(spec)?;
                let overrun = replies.result(overrun)? as u32;
                let timers = super::task(core).timers.get_or_insert_default();
                if let Some(timer) = timers.posix.get_mut(at) {
                    *timer = PosixTimerEntry { isec, insec, vsec, vnsec, overrun, ..*timer };
                }
                Ok(())
            });
        }
    }

    fn prepare(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let timers = all(cx.leader);
        if timers.is_empty() {
            return Ok(());
        }
        let is_leader = cx.tid == cx.pid;
        if !process::can_choose_timer_ids() {
            return if is_leader { make_in_order(cx, timers, batch) } else { Ok(()) };
        }
        if is_leader {
            choose_ids(batch, 1);
        }
        for timer in timers.iter().filter(|timer| maker(cx, timer) == cx.tid) {
            batch.room(1, 128);
            make(cx, timer, timer.clock_id, batch);
        }
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        // Before there is any other signal that could be taken instead.
        for timer in all(cx.leader).iter().filter(|timer| receiver(timer, cx.pid) == cx.tid) {
            if has_count(cx, timer) {
                restore_count(timer, batch);
            }
        }
        Ok(())
    }

    fn start(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let timers = all(cx.leader);
        if !timers.is_empty() && cx.tid == cx.pid && process::can_choose_timer_ids() {
            choose_ids(batch, 0);
        }
        for timer in timers.iter().filter(|timer| receiver(timer, cx.pid) == cx.tid) {
            start(cx, timer, batch);
        }
        Ok(())
    }
}

/// Describes a timer but for its time; `is_own` knows the threads of its process, and the process.
fn describe(timer: &Timer, is_own: impl Fn(PidInside) -> bool) -> Result<PosixTimerEntry, TimerRefusal> {
    let owner = !(timer.clock >> CLOCK_BITS);
    // Others are clocks that all have, and those of whoever made the timer.
    if timer.clock < 0 && owner != 0 && !is_own(PidInside::new(owner)) {
        return Err(TimerRefusal::ForeignClock(owner));
    }
    let thread_id = if timer.thread.is_some() { libc::SIGEV_THREAD_ID } else { 0 };
    Ok(PosixTimerEntry {
        it_id: timer.id.cast_unsigned(),
        clock_id: timer.clock.cast_unsigned(),
        si_signo: timer.signal.cast_unsigned(),
        it_sigev_notify: (timer.notify | thread_id).cast_unsigned(),
        sival_ptr: timer.value,
        notify_thread_id: timer.thread,
        ..PosixTimerEntry::default()
    })
}

/// From `include/uapi/linux/prctl.h`.
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;

/// Lets `timer_create` take ids from its caller (1), or give them itself (0).
fn choose_ids(batch: &mut Batch<'_>, on: i32) {
    let args = args![PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0];
    batch.call("prctl(PR_TIMER_CREATE_RESTORE_IDS)", libc::SYS_prctl, args);
}

/// Makes a timer, under the id that it had if the kernel takes one.
fn make(cx: ThreadRestore<'_>, timer: &PosixTimerEntry, clock_id: u32, batch: &mut Batch<'_>) {
    // struct sigevent: value, signal, notification, thread.
    let signal = u64::from(timer.si_signo) | u64::from(timer.it_sigev_notify) << 32;
    let thread = timer.notify_thread_id.map_or(0, |tid| cx.inside(tid).number());
    let thread = u64::from(thread.cast_unsigned());
    let event = batch.input(&[timer.sival_ptr, signal, thread, 0, 0, 0, 0, 0]);
    let id = batch.input(&u64::from(timer.it_id));
    batch.call("timer_create", libc::SYS_timer_create, args![clock_id.cast_signed(), event, id]);
}

/// Makes all timers where ids are given in their order: those in between are made and deleted again.
fn make_in_order(
    cx: ThreadRestore<'_>,
    timers: &[PosixTimerEntry],
    batch: &mut Batch<'_>,
) -> Result<(), Problem> {
    let mut timers: Vec<&PosixTimerEntry> = timers.iter().collect();
    timers.sort_unstable_by_key(|timer| timer.it_id);
    let mut next = 0;
    for timer in timers {
        if timer.it_id >= MAX_STEPS {
            return Err(Problem::new(TimerRefusal::Id).object(object(timer.it_id)));
        }
        while next < timer.it_id {
            batch.room(2, 128);
            let nothing = PosixTimerEntry {
                it_id: next,
                it_sigev_notify: libc::SIGEV_NONE.cast_unsigned(),
                ..PosixTimerEntry::default()
            };
            make(cx, &nothing, libc::CLOCK_MONOTONIC.cast_unsigned(), batch);
            batch.call("timer_delete", libc::SYS_timer_delete, args![next]);
            next += 1;
        }
        batch.room(2, 128);
        let clock = match maker(cx, timer) {
            tid if tid == cx.pid => timer.clock_id,
            tid => {
                let own = !cx.inside(tid).number() << CLOCK_BITS;
                (own | OWN_CLOCK & ((1 << CLOCK_BITS) - 1)).cast_unsigned()
            }
        };
        make(cx, timer, clock, batch);
        // Fails if the timer got another id.
        batch.call("timer_getoverrun", libc::SYS_timer_getoverrun, args![timer.it_id]);
        next += 1;
    }
    Ok(())
}

/// Whether the signal of a timer is pending.
fn is_pending(cx: ThreadRestore<'_>, timer: &PosixTimerEntry) -> bool {
    let own = cx.core.thread_core.as_ref().and_then(|thread| thread.signals_p.as_ref());
    let shared = cx.leader.tc.as_ref().and_then(|tc| tc.signals_s.as_ref());
    timer_arming::is_pending(timer, if timer.notify_thread_id.is_some() { own } else { shared })
}

/// Whether a timer tells how often it has expired beside the signal that was taken last.
fn has_count(cx: ThreadRestore<'_>, timer: &PosixTimerEntry) -> bool {
    let is_common = timer.clock_id.cast_signed() >= 0;
    let is_armed = timer_arming::going_on(timer).is_some() && (timer.isec, timer.insec) != (0, 0);
    let sends = (1..=64).contains(&timer.si_signo);
    timer.overrun != 0 && is_common && is_armed && sends && !is_pending(cx, timer)
}

/// The count belongs to the signal that was taken last: it is sent and taken once more, with the same count.
fn restore_count(timer: &PosixTimerEntry, batch: &mut Batch<'_>) {
    /// For a signal that is sent at once, in nanoseconds.
    const PATIENCE: u64 = 100_000_000;
    batch.room(2, 128);
    arm(timer, TIMER_ABSTIME, timer_arming::expired(timer, timer.overrun), batch);
    let signals = batch.input(&(1_u64 << (timer.si_signo - 1)));
    let patience = batch.input(&[0, PATIENCE]);
    let args = args![signals, 0, patience, size_of::<u64>()];
    batch.try_call("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, args);
}

fn arm(timer: &PosixTimerEntry, flags: i32, spec: TimerSpec, batch: &mut Batch<'_>) {
    let spec = batch.input(&spec);
    batch.call("timer_settime", libc::SYS_timer_settime, args![timer.it_id, flags, spec, 0]);
}

/// Starts a timer, unless it was started with its pending signal or its count.
fn start(cx: ThreadRestore<'_>, timer: &PosixTimerEntry, batch: &mut Batch<'_>) {
    if let Some(spec) = timer_arming::going_on(timer)
        && !is_pending(cx, timer)
        && !has_count(cx, timer)
    {
        batch.room(1, 64);
        arm(timer, 0, spec, batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMER: Timer = Timer { id: 5, signal: 40, value: 7, notify: 0, thread: None, clock: 1 };

    #[test]
    fn clocks_are_common_or_own() {
        let is_own = |pid| pid == PidInside::new(3);
        let entry = describe(&Timer { thread: Some(1000), ..TIMER }, is_own).unwrap();
        assert_eq!((entry.notify_thread_id, entry.it_sigev_notify), (Some(1000), 4));
        for clock in [0, 1, OWN_CLOCK, -6, (!3 << 3) | 6] {
            assert_eq!(describe(&Timer { clock, ..TIMER }, is_own).unwrap().clock_id.cast_signed(), clock);
        }
        let foreign = describe(&Timer { clock: (!1001 << 3) | 2, ..TIMER }, is_own);
        assert!(matches!(foreign, Err(TimerRefusal::ForeignClock(1001))));
    }
}
