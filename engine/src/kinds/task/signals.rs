//! Signals: handlers, alternate stacks and what is pending. Blocked signals are restored with the registers.
//!
//! Handlers and alternate stacks only the task itself can read. Pending signals are read by `PTRACE_PEEKSIGINFO`, in
//! their order, and are sent again by the thread to itself, because only to itself may a thread send a `siginfo_t` that
//! claims to come from the kernel (`rt_sigqueueinfo(2)`).

use proto::messages::{PosixTimerEntry, SaEntry, SiginfoEntry, SignalQueueEntry, ThreadSasEntry};

use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore, timer_arming};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::{Context as _, Problem};
use crate::sys::ptrace::{self, Queue, SIGINFO_SIZE};
use crate::tracee::batch::Batch;

/// Handlers of a task.
#[derive(Debug)]
pub struct Handlers;

/// Alternate signal stacks.
#[derive(Debug)]
pub struct AltStack;

/// Signals sent to a task or thread and not yet taken.
#[derive(Debug)]
pub struct Pending;

/// `_NSIG` of the kernel.
const NSIG: u32 = 64;
/// Bytes of the kernel's `sigset_t`.
const SIGSET_SIZE: u64 = 8;

/// Signals whose action can be set, in order.
fn settable() -> impl Iterator<Item = u32> {
    (1..=NSIG).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(&(*signal as i32)))
}

impl TaskKind for Handlers {
    const NAME: &'static str = "signal-handlers";
    const SCOPE: Scope = Scope::Task;
    const DECIDED_BY: Option<&'static [Field]> = Some(&[Field::new(
        &[Step::In("task_struct", "sighand"), Step::Behind, Step::In("sighand_struct", "action")],
        2048,
    )]);

    fn ask(questions: &mut Questions) {
        let actions: Vec<_> = settable()
            .map(|signal| {
                let batch = questions.batch();
                // The kernel's struct sigaction: handler, flags, restorer, mask.
                let action = batch.output::<[u64; 4]>();
                batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, 0, action, SIGSET_SIZE]);
                action
            })
            .collect();
        questions.then(move |replies, core| {
            let mut entries = Vec::with_capacity(actions.len());
            for action in &actions {
                let [sigaction, flags, restorer, mask] = replies.output(*action)?;
                let compat_sigaction = Some(false);
                entries.push(SaEntry {
                    sigaction,
                    flags,
                    restorer,
                    mask,
                    compat_sigaction,
                    mask_extended: None,
                });
            }
            super::task(core).sigactions = entries;
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let is_default = |entry: &SaEntry| {
            (entry.sigaction, entry.flags, entry.restorer, entry.mask) == (libc::SIG_DFL as u64, 0, 0, 0)
        };
        // Every stub is born with the default actions.
        let others = settable().zip(&cx.task()?.sigactions).filter(|(_, entry)| !is_default(entry));
        for (signal, entry) in others {
            let action = batch.input(&[entry.sigaction, entry.flags, entry.restorer, entry.mask]);
            batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, action, 0, SIGSET_SIZE]);
        }
        Ok(())
    }
}

/// Adds the calls that give all signals their default actions.
pub fn add_defaults(batch: &mut Batch<'_>) {
    let action = batch.input(&[libc::SIG_DFL as u64, 0, 0, 0]);
    for signal in settable() {
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, action, 0, SIGSET_SIZE]);
    }
}

/// Whether the kernel can force a signal on a task without changing its action: it is not ignored, and no other of its kind
/// is pending, nor sent by a timer.
pub fn can_be_forced(leader: &ThreadImage, signal: i32) -> bool {
    let (Some(task), Some(thread)) = (&leader.tc, &leader.thread_core) else { return false };
    let action = settable().zip(&task.sigactions).find(|(number, _)| *number == signal as u32);
    let queues = [&task.signals_s, &thread.signals_p].into_iter().flatten();
    let mut pending = queues.flat_map(|queue| &queue.signals);
    let is_it = |entry: &SiginfoEntry| {
        entry.siginfo.first_chunk().is_none_or(|number| i32::from_le_bytes(*number) == signal)
    };
    let mut timers = task.timers.iter().flat_map(|timers| &timers.posix);
    action.is_some_and(|(_, action)| action.sigaction != libc::SIG_IGN as u64)
        && !pending.any(is_it)
        && !timers.any(|timer| timer.si_signo == signal as u32)
}

/// `SS_ONSTACK` of `include/uapi/linux/signal.h`.
const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;

impl TaskKind for AltStack {
    const NAME: &'static str = "sigaltstack";
    const SCOPE: Scope = Scope::Thread;
    const DECIDED_BY: Option<&'static [Field]> = Some(&[]);
    const TELLS: &'static [Field] = &[
        Field::new(&[Step::In("task_struct", "sas_ss_sp")], 8),
        Field::new(&[Step::In("task_struct", "sas_ss_flags")], 4),
        Field::new(&[Step::In("task_struct", "sas_ss_size")], 8),
    ];

    fn tell(words: &[u64], core: &mut ThreadImage) {
        let &[ss_sp, flags, ss_size] = words else { return };
        // What sigaltstack(2) makes of it for who is not on the stack (`sas_ss_flags` of include/linux/sched/signal.h).
        let disabled = if ss_size == 0 { SS_DISABLE } else { 0 };
        let ss_flags = disabled | flags as u32 & SS_AUTODISARM;
        super::thread(core).sas = Some(ThreadSasEntry { ss_sp, ss_size, ss_flags });
    }

    fn ask(questions: &mut Questions) {
        let batch = questions.batch();
        // stack_t: pointer, flags in the lower half of a word, size.
        let stack = batch.output::<[u64; 3]>();
        batch.call("sigaltstack", libc::SYS_sigaltstack, args![0, stack]);
        questions.then(move |replies, core| {
            let [ss_sp, flags, ss_size] = replies.output(stack)?;
            super::thread(core).sas = Some(ThreadSasEntry { ss_sp, ss_size, ss_flags: flags as u32 });
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let Some(sas) = &cx.thread()?.sas else { return Ok(()) };
        // Also if it has none: the root is a fork of ours, and has inherited one whose memory is gone. Whether a thread runs
        // on its stack follows from its stack pointer, and may not be said.
        let stack = batch.input(&[sas.ss_sp, u64::from(sas.ss_flags & !SS_ONSTACK), sas.ss_size]);
        batch.call("sigaltstack", libc::SYS_sigaltstack, args![stack, 0]);
        Ok(())
    }
}

impl TaskKind for Pending {
    const NAME: &'static str = "pending-signals";
    const SCOPE: Scope = Scope::Thread;

    fn look_last(
        task: &TaskFacts,
        thread: &ThreadFacts,
        has_pending: bool,
        core: &mut ThreadImage,
    ) -> Result<(), Problem> {
        let queue = |queue| {
            if !has_pending {
                return Ok(SignalQueueEntry::default());
            }
            read_queue(thread.tid, queue).while_trying_to("read its pending signals")
        };
        super::thread(core).signals_p = Some(queue(Queue::Thread)?);
        if thread.tid == task.pid {
            super::task(core).signals_s = Some(queue(Queue::Shared)?);
        }
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        send_again(cx, Queue::Thread, cx.thread()?.signals_p.as_ref(), batch)?;
        if cx.tid == cx.pid {
            send_again(cx, Queue::Shared, cx.task()?.signals_s.as_ref(), batch)?;
        }
        Ok(())
    }
}

/// Has a thread fill one of its queues in its order.
fn send_again(
    cx: ThreadRestore<'_>,
    queue: Queue,
    signals: Option<&SignalQueueEntry>,
    batch: &mut Batch<'_>,
) -> Result<(), Problem> {
    for entry in signals.map(|q| q.signals.as_slice()).unwrap_or_default() {
        batch.room(2, 256);
        let (signal, info) = siginfo(cx, entry)?;
        if let Some(timer) = timer_that_sent(cx, queue, &info) {
            let spec = batch.input(&timer_arming::expired(timer, 0));
            let args = args![timer.it_id, timer_arming::TIMER_ABSTIME, spec, 0];
            batch.call("timer_settime", libc::SYS_timer_settime, args);
            // It expires in an interrupt, which comes at once; its signal must be in the queue before the next one.
            let moment = batch.input(&[0_u64, 1_000_000]);
            batch.call("nanosleep", libc::SYS_nanosleep, args![moment, 0]);
            continue;
        }
        let info = batch.input(&timer_arming::without_private_word(info));
        match queue {
            Queue::Thread => {
                let args = args![cx.inside(cx.pid), cx.inside(cx.tid), signal, info];
                batch.call("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, args);
            }
            Queue::Shared => {
                let args = args![cx.inside(cx.pid), signal, info];
                batch.call("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, args);
            }
        }
    }
    Ok(())
}

/// The POSIX timer that a pending signal is a part of.
fn timer_that_sent<'a>(
    cx: ThreadRestore<'a>,
    queue: Queue,
    info: &[u8; SIGINFO_SIZE],
) -> Option<&'a PosixTimerEntry> {
    let id = timer_arming::sender(info)?;
    let timers = cx.leader.tc.as_ref()?.timers.as_ref()?;
    let timer = timers.posix.iter().find(|timer| timer.it_id == id)?;
    let receiver = if queue == Queue::Thread { Some(cx.tid) } else { None };
    (timer.notify_thread_id == receiver).then_some(timer)
}

fn siginfo(cx: ThreadRestore<'_>, entry: &SiginfoEntry) -> Result<(i32, [u8; SIGINFO_SIZE]), Problem> {
    let info = <[u8; SIGINFO_SIZE]>::try_from(entry.siginfo.as_slice());
    let info = info.map_err(|_size| cx.invalid("a pending signal has no siginfo of 128 bytes"))?;
    let signal = info.first_chunk().map_or(0, |number| i32::from_le_bytes(*number));
    Ok((signal, info))
}

/// Reads a whole queue.
fn read_queue(tid: i32, queue: Queue) -> Result<SignalQueueEntry, crate::error::SysError> {
    let mut signals = Vec::new();
    loop {
        let mut buffer = [[0; SIGINFO_SIZE]; 32];
        let count = ptrace::peek_siginfo(tid, queue, signals.len() as u64, &mut buffer)?;
        if count == 0 {
            return Ok(SignalQueueEntry { signals });
        }
        let read = buffer.iter().take(count);
        signals.extend(read.map(|info| SiginfoEntry { siginfo: info.to_vec() }));
    }
}
