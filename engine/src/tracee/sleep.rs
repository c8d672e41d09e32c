//! What is left of a sleep that our stop interrupted: measured at a dump, and slept at a restore.
//!
//! A call with a relative timeout leaves its end in the thread's restart block (`restart_syscall(2)`), which nobody can read,
//! and which a new thread does not have. But what is in there shows when the thread is let go on: it sleeps again, by a
//! timer that `/proc/timer_list` has, and has no longer when it is stopped once more. For a restore, the call is made with what was left as its
//! timeout, while an interrupt is pending already: it sleeps not at all, and the thread has a restart block of its own.
//!
//! Calls that the kernel ends with `EINTR` for no other reason than our stop (`signal(7)`) are made again.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use libc::user_regs_struct;

use super::freeze::{FrozenTask, FrozenTree, TaskState};
use super::memory::Memory;
use super::regs::{self, SYSCALL_LEN};
use super::stopped::{Running, Stop, Stopped, TraceError};
use crate::dump::inspect::{read_proc, read_text};
use crate::error::{Context as _, Problem};
use crate::options::DumpOptions;
use crate::procfs;
use crate::procfs::timer_list::{self, Timer, TimerList};
use crate::sys::ptrace::Resume;

/// A call that was interrupted, and that the thread's restart block would continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sleep {
    /// Its number.
    pub call: i64,
    /// What is left of its time; none where nobody can tell, or where there was no limit.
    pub left: Option<Duration>,
}

/// Calls that fail with `EINTR` when the thread was stopped, though no signal was taken (`signal(7)`), and have done nothing
/// then: some always, and those on sockets that have a timeout.
const NEVER_RESTARTED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_io_getevents,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
];
/// How often a sleep is measured, should others begin theirs in the same moment.
const ATTEMPTS: usize = 3;
/// How long a thread may take to fall asleep, and to stop.
const LIMIT: Duration = Duration::from_secs(1);

/// Measures all sleeps of a tree that was just stopped, and has interrupted calls made again.
pub fn measure(tree: &mut FrozenTree, options: &DumpOptions) -> Result<(), Problem> {
    let list = options.inside.timer_list.as_deref().unwrap_or(Path::new("/proc/timer_list"));
    for task in &mut tree.tasks {
        let name = task.name.clone();
        measure_task(task, list).of_task(&name).while_trying_to("measure how long it sleeps")?;
    }
    Ok(())
}

fn measure_task(task: &mut FrozenTask, list: &Path) -> Result<(), TraceError> {
    let mut memory = None;
    for at in 0..task.threads.len() {
        let Some(thread) = task.threads.get(at) else { break };
        let regs = thread.stopped().regs()?;
        let (call, result) = (regs.orig_rax as i64, regs.rax as i64);
        if !regs::is_64_bit(&regs) || call < 0 {
            continue;
        }
        if result == -i64::from(libc::EINTR) && NEVER_RESTARTED.contains(&call) {
            if !takes_a_signal(task.pid, thread.tid) {
                thread.stopped().set_regs(&again(&regs))?;
            }
            continue;
        }
        if result != regs::ERESTART_RESTARTBLOCK || takes_a_signal(task.pid, thread.tid) {
            continue;
        }
        if memory.is_none() {
            memory = Memory::open(task.first_tid()).ok();
        }
        let known = memory.as_ref().and_then(|memory| told(memory, &regs));
        let sleep = match known {
            Some(sleep) => Some(sleep),
            // One that is stopped sleeps on only when it is continued.
            None if task.state != TaskState::Alive => None,
            None => look(task, at, &regs, memory.as_ref(), list)?,
        };
        if let Some(thread) = task.threads.get_mut(at) {
            thread.sleep = sleep;
        }
    }
    Ok(())
}

/// Registers of a thread that makes its call again.
fn again(regs: &user_regs_struct) -> user_regs_struct {
    let rip = regs.rip.wrapping_sub(SYSCALL_LEN);
    user_regs_struct { rax: regs.orig_rax, rip, orig_rax: u64::MAX, ..*regs }
}

/// Whether a thread has a signal to take, which is what interrupted it.
fn takes_a_signal(pid: i32, tid: i32) -> bool {
    let status = read_proc(format!("/proc/{pid}/task/{tid}/status"), procfs::status::parse);
    status.map_or(true, |status| (status.sig_pnd | status.shd_pnd) & !status.sig_blk != 0)
}

/// What a thread's registers and memory tell: that there is no limit, or what the kernel has written down for the thread.
fn told(memory: &Memory, regs: &user_regs_struct) -> Option<Sleep> {
    let call = regs.orig_rax as i64;
    let remaining = match call {
        libc::SYS_poll if (regs.rdx as u32).cast_signed() < 0 => return Some(Sleep { call, left: None }),
        libc::SYS_futex if !is_relative_futex(regs) => return Some(Sleep { call, left: None }),
        libc::SYS_nanosleep => regs.rsi,
        libc::SYS_clock_nanosleep => regs.r10,
        _ => return None,
    };
    if remaining == 0 {
        return None;
    }
    Some(Sleep { call, left: duration(memory.read_value(remaining).ok()?) })
}

/// Whether a futex call has a timeout that begins with the call (`futex(2)`): other than `FUTEX_WAIT`, those that are restarted
/// have the time at which they end.
fn is_relative_futex(regs: &user_regs_struct) -> bool {
    regs.rsi as i32 & !libc::FUTEX_PRIVATE_FLAG == libc::FUTEX_WAIT
}

fn duration([seconds, nanoseconds]: [i64; 2]) -> Option<Duration> {
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
}

/// Lets a thread sleep for a moment, and looks at the timers; none if it does not sleep any more.
fn look(
    task: &mut FrozenTask,
    at: usize,
    regs: &user_regs_struct,
    memory: Option<&Memory>,
    list: &Path,
) -> Result<Option<Sleep>, TraceError> {
    let mut call = regs.orig_rax as i64;
    let mut candidates: Option<HashSet<Timer>> = None;
    for _ in 0..ATTEMPTS {
        let pid = task.pid;
        let Some(thread) = task.threads.get_mut(at) else { return Ok(None) };
        let Some(stopped) = thread.stopped.take() else { return Ok(None) };
        let tid = thread.tid;
        let running = match enter_again(stopped) {
            Err(TraceError::Died { .. }) => {
                task.threads.remove(at);
                return Ok(None);
            }
            running => running?,
        };
        let asleep = falls_asleep(pid, tid);
        let during = timers(list);
        if call == libc::SYS_restart_syscall {
            call = continued_call(pid, tid, regs).unwrap_or(call);
        }
        let Some(stopped) = stop_again(running)? else {
            // It was killed; whoever asks for it next says so.
            task.threads.remove(at);
            return Ok(None);
        };
        let is_interrupted = stopped.regs().is_ok_and(|now| is_restarted(&now));
        thread.stopped = Some(stopped);
        if !is_interrupted {
            return Ok(None);
        }
        let known = user_regs_struct { orig_rax: call as u64, ..*regs };
        if let Some(sleep) = memory.and_then(|memory| told(memory, &known)) {
            return Ok(Some(sleep));
        }
        let (Some(during), Some(after), true) = (during, timers(list), asleep) else {
            continue;
        };
        let mut gone: HashSet<Timer> = during.sleeps.into_iter().collect();
        // Those of others that ended in the same moment are still among them.
        for other in &after.sleeps {
            gone.remove(other);
        }
        if let Some(earlier) = &candidates {
            gone.retain(|timer| earlier.contains(timer));
        }
        if let [only] = gone.iter().collect::<Vec<_>>().as_slice() {
            let left = only.expires.saturating_sub(only.offset).saturating_sub(after.now);
            let left = Some(Duration::from_nanos(u64::try_from(left).unwrap_or(0)));
            return Ok((call != libc::SYS_restart_syscall).then_some(Sleep { call, left }));
        }
        candidates = Some(gone).filter(|gone| !gone.is_empty());
    }
    Ok((call != libc::SYS_restart_syscall).then_some(Sleep { call, left: None }))
}

/// Lets a thread go into its call once more, and no further: should that end, it stops there, and does nothing of its own. One that
/// has a signal to take first takes it, and stops.
fn enter_again(stopped: Stopped) -> Result<Running, TraceError> {
    let tid = stopped.tid();
    let (stopped, stop) = stopped.resume(Resume::Syscall, 0)?.wait(LIMIT)?;
    let signal = match stop {
        Stop::Syscall => return Ok(stopped.resume(Resume::Syscall, 0)?),
        Stop::Signal(signal) => signal,
        _ => 0,
    };
    Running::adopt(tid).interrupt()?;
    Ok(stopped.resume(Resume::Cont, signal)?)
}

/// Stops a thread that was let go into its call; none if it ended instead.
fn stop_again(running: Running) -> Result<Option<Stopped>, TraceError> {
    let tid = running.tid();
    running.interrupt()?;
    let mut running = running;
    loop {
        let (stopped, signal) = match running.wait(LIMIT) {
            Ok((stopped, Stop::Interrupt)) => return Ok(Some(stopped)),
            Ok((stopped, Stop::Group(_))) => {
                return stopped.without_pending_stop(LIMIT).map(|(stopped, _)| Some(stopped));
            }
            Ok((stopped, Stop::Signal(signal))) => (stopped, signal),
            Ok((stopped, _)) => (stopped, 0),
            Err(TraceError::Died { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        // Each stop takes an interrupt back that was asked for before (`ptrace_stop` of kernel/signal.c).
        Running::adopt(tid).interrupt()?;
        running = stopped.resume(Resume::Cont, signal)?;
    }
}

fn is_restarted(regs: &user_regs_struct) -> bool {
    regs.orig_rax as i64 == libc::SYS_restart_syscall && regs.rax as i64 == regs::ERESTART_RESTARTBLOCK
}

/// The timers of all sleeps; none where nobody may look at them.
fn timers(list: &Path) -> Option<TimerList> {
    timer_list::parse(&std::fs::read(list).ok()?).ok()
}

/// Waits until a thread sleeps; false if it does not within the limit.
fn falls_asleep(pid: i32, tid: i32) -> bool {
    let path = format!("/proc/{pid}/task/{tid}/stat");
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let stat = read_text(&path).ok().and_then(|text| procfs::stat::parse(&text).ok());
        match stat.map(|stat| stat.state) {
            Some(procfs::stat::State::Sleeping) => return true,
            Some(procfs::stat::State::Running) => std::thread::yield_now(),
            _ => return false,
        }
    }
    false
}

/// The call that a sleeping thread's `restart_syscall` continues, by the functions that it sleeps in: its number is in no
/// register any more, but the arguments are.
fn continued_call(pid: i32, tid: i32, regs: &user_regs_struct) -> Option<i64> {
    let stack = read_text(&format!("/proc/{pid}/task/{tid}/stack")).ok()?;
    let stack = String::from_utf8_lossy(&stack);
    if stack.contains("futex_wait") {
        return Some(libc::SYS_futex);
    }
    if stack.contains("poll") {
        return Some(libc::SYS_poll);
    }
    // Functions of the others are never shown, because they count as the scheduler's (`__sched`). The first argument of the one
    // is an address, of the other a small number.
    let is_address = |value: u64| value > 0x1000 && (value as i64) > 0;
    let call = if is_address(regs.rdi) { libc::SYS_nanosleep } else { libc::SYS_clock_nanosleep };
    (stack.contains("do_syscall") && (is_address(regs.rdi) || is_address(regs.rdx))).then_some(call)
}

/// Where a call's timeout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Milliseconds in `rdx`.
    Register,
    /// A `struct timespec` there.
    Memory(u64),
}

fn place_of_timeout(call: i64, regs: &user_regs_struct) -> Option<Place> {
    match call {
        libc::SYS_poll => Some(Place::Register),
        libc::SYS_nanosleep => Some(Place::Memory(regs.rdi)),
        libc::SYS_clock_nanosleep => Some(Place::Memory(regs.rdx)),
        libc::SYS_futex => Some(Place::Memory(regs.r10)),
        _ => None,
    }
}

/// Has a restored thread, which has its registers and is about to make its call, sleep for what was left. It is stopped again
/// when we return, with a signal that it has to take first, or 0.
pub fn begin(stopped: Stopped, call: i64, left: Duration) -> Result<(Stopped, i32), TraceError> {
    let regs = stopped.regs()?;
    let Some(place) = place_of_timeout(call, &regs).filter(|_| regs.rax as i64 == call) else {
        return Ok((stopped, 0));
    };
    let memory = Memory::open(stopped.tid())?;
    let is_call = memory.read_value::<[u8; 2]>(regs.rip).is_ok_and(|code| code == SYSCALL);
    let kept = match place {
        Place::Register => None,
        Place::Memory(address) => match memory.read_value::<[u64; 2]>(address) {
            Ok(kept) => Some((address, kept)),
            Err(_unmapped) => return Ok((stopped, 0)),
        },
    };
    if !is_call {
        return Ok((stopped, 0));
    }
    let milliseconds = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as u64;
    let mut calling = regs;
    match kept {
        None => calling.rdx = milliseconds,
        Some((address, _)) => {
            let time = [left.as_secs(), left.subsec_nanos().into()];
            if memory.write(address, zerocopy::IntoBytes::as_bytes(&time)).is_err() {
                // A file's page that nobody may write. The call is made as a whole.
                return Ok((stopped, 0));
            }
        }
    }
    stopped.set_regs(&calling)?;
    let (stopped, signal, mut after) = call_interrupted(stopped)?;
    if let Some((address, kept)) = kept {
        memory.write(address, zerocopy::IntoBytes::as_bytes(&kept))?;
    }
    after.rdx = regs.rdx;
    stopped.set_regs(&after)?;
    Ok((stopped, signal))
}

/// The `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Has a thread make the call before it while an interrupt is pending; its registers then, with which it goes on. A signal that
/// comes first is to be taken first, and the call not made.
fn call_interrupted(stopped: Stopped) -> Result<(Stopped, i32, user_regs_struct), TraceError> {
    let before = stopped.regs()?;
    let (stopped, stop) = stopped.resume(Resume::Syscall, 0)?.wait(LIMIT)?;
    match stop {
        Stop::Syscall => {}
        Stop::Signal(signal) => return Ok((stopped, signal, before)),
        stop => return Err(TraceError::Unexpected { tid: stopped.tid(), stop }),
    }
    // It stops when it goes on, and does not sleep before.
    Running::adopt(stopped.tid()).interrupt()?;
    let (stopped, stop) = stopped.resume(Resume::Syscall, 0)?.wait(LIMIT)?;
    if stop != Stop::Syscall {
        return Err(TraceError::Unexpected { tid: stopped.tid(), stop });
    }
    let after = stopped.regs()?;
    Ok((stopped, 0, after))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Registers of a thread in a call, without arguments.
    fn in_call(call: i64) -> user_regs_struct {
        let none = regs::tests::zeroed();
        user_regs_struct {
            rax: regs::ERESTART_RESTARTBLOCK as u64,
            orig_rax: call as u64,
            rip: 0x1002,
            ..none
        }
    }

    #[test]
    fn a_call_is_made_again_from_its_instruction() {
        let regs = again(&in_call(libc::SYS_epoll_wait));
        assert_eq!((regs.rax, regs.rip, regs.orig_rax), (libc::SYS_epoll_wait as u64, 0x1000, u64::MAX));
    }

    #[rstest]
    #[case(libc::SYS_poll, Some(Place::Register))]
    #[case(libc::SYS_nanosleep, Some(Place::Memory(1)))]
    #[case(libc::SYS_clock_nanosleep, Some(Place::Memory(3)))]
    #[case(libc::SYS_futex, Some(Place::Memory(4)))]
    #[case(libc::SYS_read, None)]
    fn timeouts_have_their_places(#[case] call: i64, #[case] expected: Option<Place>) {
        let regs = user_regs_struct { rdi: 1, rsi: 2, rdx: 3, r10: 4, ..in_call(call) };
        assert_eq!(place_of_timeout(call, &regs), expected);
    }

    /// What is left is told where the kernel writes it down, and where there is no end.
    #[test]
    fn some_sleeps_need_not_be_measured() {
        let memory = Memory::open(std::process::id() as i32).unwrap();
        let rest = [3_i64, 500_000_000];
        let address = rest.as_ptr().expose_provenance() as u64;
        let left = |regs| told(&memory, &regs).map(|sleep| sleep.left);
        let rest_at = user_regs_struct { rsi: address, ..in_call(libc::SYS_nanosleep) };
        assert_eq!(left(rest_at), Some(Some(Duration::from_millis(3500))));
        assert_eq!(left(in_call(libc::SYS_nanosleep)), None);
        let endless = user_regs_struct { rdx: u64::from(u32::MAX), ..in_call(libc::SYS_poll) };
        assert_eq!(left(endless), Some(None));
        assert_eq!(left(user_regs_struct { rdx: 1, ..in_call(libc::SYS_poll) }), None);
        let until = user_regs_struct { rsi: 137, ..in_call(libc::SYS_futex) };
        assert_eq!(left(until), Some(None));
        assert_eq!(left(user_regs_struct { rsi: 128, ..in_call(libc::SYS_futex) }), None);
    }

    #[rstest]
    #[case([1, 999_999_999], Some(Duration::new(1, 999_999_999)))]
    #[case([1, 1_000_000_000], None)]
    #[case([-1, 0], None)]
    fn strange_times_are_none(#[case] time: [i64; 2], #[case] expected: Option<Duration>) {
        assert_eq!(duration(time), expected);
    }
}
