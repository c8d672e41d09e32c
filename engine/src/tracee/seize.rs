//! Stopping all threads of one process.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::dump::inspect::{read_proc, read_text};
use crate::error::{Problem, SysError, TaskName};
use crate::procfs;
use crate::sys::ptrace::{self, Queue, Resume, SIGINFO_SIZE};
use crate::tracee::freeze::{
    FreezeError, FrozenTask, FrozenThread, TaskState, has_ended, process_state, task_name,
};
use crate::tracee::stopped::{Running, Stop, Stopped, TraceError};
use crate::tracee::vfork;

impl FrozenTask {
    /// Stops all threads of a process; none if it is gone. Its first thread may have been asked to stop already.
    pub(super) fn seize(
        pid: i32,
        parent: Option<usize>,
        asked: Option<Running>,
        limit: Duration,
    ) -> Result<Option<Self>, Problem> {
        let unknown = TaskName { host_pid: pid, inner_pid: None, comm: String::new() };
        let mut task =
            Self { pid, name: unknown, parent, state: TaskState::Alive, threads: Vec::new(), agent: None };
        let named = |e: Problem| match task_name(pid) {
            Some(name) => e.task(&name),
            None => e,
        };
        task.seize_all(asked, limit).map_err(named)?;
        if task.threads.is_empty() {
            // Either it waits for its parent, or it is gone.
            if process_state(pid) != Some('Z') {
                return Ok(None);
            }
            task.state = TaskState::Zombie;
        }
        // It has executed its last program until further notice.
        task.name = task_name(pid).unwrap_or(task.name);
        Ok(Some(task))
    }

    /// Stops threads until a look at all of them finds none that is not stopped.
    fn seize_all(&mut self, asked: Option<Running>, limit: Duration) -> Result<(), Problem> {
        let deadline = Instant::now() + limit;
        let mut ended = HashSet::new();
        if let Some(thread) = asked {
            self.wait_for_stops(vec![thread], &mut ended, limit)?;
        }
        loop {
            let held: HashSet<i32> = self.threads.iter().map(|thread| thread.tid).collect();
            let new = |tid: &i32| !held.contains(tid) && !ended.contains(tid);
            // Those that have ended may be gone, and others have come; but who is held stays, or loses its place to another.
            let all_known = ended.is_empty() && thread_count(self.pid) == Some(held.len());
            let new: Vec<i32> =
                if all_known { Vec::new() } else { thread_ids(self.pid).filter(new).collect() };
            let changed = if new.is_empty() {
                self.take_note_of_losses(limit)? || self.settle_stop(limit)?
            } else {
                self.seize_threads(&new, &mut ended, limit)?;
                true
            };
            if !changed {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Problem::new(FreezeError::Outrun));
            }
        }
    }

    /// Stops some threads: all are asked before any is waited for. Those that have ended and are not gone go to `ended`.
    fn seize_threads(
        &mut self,
        tids: &[i32],
        ended: &mut HashSet<i32>,
        limit: Duration,
    ) -> Result<(), Problem> {
        let mut running = Vec::with_capacity(tids.len());
        for &tid in tids {
            let mut seized = Running::seize(tid, 0);
            // It may have ended, and another thread have executed a program and taken its id, before we looked.
            for _ in 0..3 {
                if !matches!(seized, Err(SysError { errno: Errno::EPERM, .. })) || has_ended(self.pid, tid) {
                    break;
                }
                seized = Running::seize(tid, 0);
            }
            match seized {
                Ok(thread) => {
                    thread.interrupt().or_else(gone_is_fine)?;
                    running.push(thread);
                }
                Err(SysError { errno: Errno::ESRCH, .. }) => {}
                // What the kernel says of a thread that has ended, and is still there.
                Err(SysError { errno: Errno::EPERM, .. }) if has_ended(self.pid, tid) => {
                    ended.insert(tid);
                }
                // With its cgroup, and asked to stop, too.
                Err(SysError { errno: Errno::EPERM, .. }) if is_ours(self.pid, tid) => {
                    running.push(Running::adopt(tid));
                }
                Err(e) => return Err(seize_error(tid, e)),
            }
        }
        self.wait_for_stops(running, ended, limit)
    }

    /// Waits for the stops of threads that were asked.
    fn wait_for_stops(
        &mut self,
        asked: Vec<Running>,
        ended: &mut HashSet<i32>,
        limit: Duration,
    ) -> Result<(), Problem> {
        for thread in asked {
            let tid = thread.tid();
            match wait_for_interrupt(self.pid, thread, limit)? {
                Some((stopped, stop)) => {
                    self.threads.push(FrozenThread { tid, stopped: Some(stopped), stop, sleep: None });
                }
                // A leader that has ended stays as long as the other threads do, and cannot be let go.
                None if has_ended(self.pid, tid) => {
                    ended.insert(tid);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Forgets threads that we held, and that are gone: killed from outside, or by another thread's `execve`, which then
    /// goes on under the leader's id. Whether there were any.
    fn take_note_of_losses(&mut self, limit: Duration) -> Result<bool, Problem> {
        let mut lost = false;
        for mut thread in std::mem::take(&mut self.threads) {
            if thread.stopped().sigmask().is_err() {
                lost = true;
                let successor = wait_for_interrupt(self.pid, Running::adopt(thread.tid), limit)?;
                let Some((stopped, stop)) = successor else { continue };
                thread = FrozenThread { tid: thread.tid, stopped: Some(stopped), stop, sleep: None };
            }
            self.threads.push(thread);
        }
        Ok(lost)
    }

    /// Completes a stop of the whole process that was under way when we came. Whether anything had to be done.
    ///
    /// A pending `SIGSTOP` is taken now, since it cannot be blocked and would stop the agent. From the moment a stop
    /// begins, every thread must be in it: one that is not has the stop before it, and takes it when it goes on, before
    /// its first instruction (`do_jobctl_trap` of kernel/signal.c).
    fn settle_stop(&mut self, limit: Duration) -> Result<bool, Problem> {
        let mut changed = false;
        if let Some(at) = self.pending_stop()? {
            self.resume_into_stop(at, limit)?;
            changed = true;
        }
        let group = |thread: &FrozenThread| matches!(thread.stop, Stop::Group(_));
        if self.threads.iter().any(group) && !self.threads.iter().all(group) {
            for at in 0..self.threads.len() {
                if self.threads.get(at).is_some_and(|thread| !group(thread)) {
                    self.resume_into_stop(at, limit)?;
                }
            }
            // Those that are in no stop even now were let go on by a SIGCONT.
            let all = self.threads.iter().all(group);
            if !all {
                self.threads.iter_mut().for_each(|thread| thread.stop = Stop::Interrupt);
            }
            changed = true;
        }
        self.state = match self.threads.first().map(|thread| thread.stop) {
            Some(Stop::Group(signal)) => TaskState::Stopped(signal),
            _ => TaskState::Alive,
        };
        Ok(changed)
    }

    /// The place of a thread that has a `SIGSTOP` to take.
    fn pending_stop(&self) -> Result<Option<usize>, SysError> {
        for (at, thread) in self.threads.iter().enumerate() {
            let own = queue_has(thread.tid, Queue::Thread, libc::SIGSTOP)?;
            if own || at == 0 && queue_has(thread.tid, Queue::Shared, libc::SIGSTOP)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Lets a thread with a stop before it go on into that, past all signals that it takes first. It has none if a `SIGCONT` came
    /// before we interrupted it, and after others were seen in the stop: then it runs, and is interrupted once more.
    fn resume_into_stop(&mut self, at: usize, limit: Duration) -> Result<(), Problem> {
        let Some(thread) = self.threads.get_mut(at) else { return Ok(()) };
        let Some(mut stopped) = thread.stopped.take() else { return Ok(()) };
        let mut signal = 0;
        let (stopped, stop) = loop {
            let tid = stopped.tid();
            let waited = match stopped.resume(Resume::Cont, signal)?.wait(limit.min(LOOK)) {
                Err(TraceError::NotStopping { .. }) => {
                    let running = Running::adopt(tid);
                    running.interrupt().or_else(gone_is_fine)?;
                    running.wait(limit)
                }
                waited => waited,
            };
            match waited {
                Ok((next, Stop::Signal(taken))) => (stopped, signal) = (next, taken),
                Ok((next, stop @ (Stop::Group(_) | Stop::Interrupt))) => break (next, stop),
                Ok((next, _)) => (stopped, signal) = (next, 0),
                Err(TraceError::Died { .. }) => {
                    self.threads.remove(at);
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
        };
        *thread = FrozenThread { tid: thread.tid, stopped: Some(stopped), stop, sleep: None };
        Ok(())
    }

    /// The thread that stands for the task: its leader, or the first that lives if that has ended.
    pub fn first_tid(&self) -> i32 {
        self.threads.first().map_or(self.pid, |thread| thread.tid)
    }

    /// Children of its first `threads` threads.
    pub(super) fn children(&self, threads: usize) -> Vec<i32> {
        let mut children = Vec::new();
        for thread in self.threads.iter().take(threads) {
            let path = format!("/proc/{}/task/{}/children", self.pid, thread.tid);
            let text = read_text(&path).unwrap_or_default();
            children.extend(procfs::children::parse(&text).unwrap_or_default());
        }
        children
    }
}

/// How often a silent thread is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for the stop we asked for; none if the thread ended instead. A signal that arrives first is let through: the
/// thread takes it, and then stops.
fn wait_for_interrupt(
    pid: i32,
    thread: Running,
    limit: Duration,
) -> Result<Option<(Stopped, Stop)>, TraceError> {
    let deadline = Instant::now() + limit;
    let tid = thread.tid();
    let mut thread = thread;
    loop {
        match thread.wait(limit.min(LOOK)) {
            Ok((stopped, Stop::Interrupt)) => return Ok(Some((stopped, Stop::Interrupt))),
            Ok((stopped, Stop::Group(_))) => return stopped.without_pending_stop(limit).map(Some),
            Ok((stopped, Stop::Signal(signal))) => thread = stopped.resume(Resume::Cont, signal)?,
            Ok((stopped, _)) => thread = stopped.resume(Resume::Cont, 0)?,
            Err(TraceError::Died { .. } | TraceError::Sys(SysError { errno: Errno::ECHILD, .. })) => {
                return Ok(None);
            }
            // The end of a leader is not reported as long as other threads live.
            Err(TraceError::NotStopping { .. }) if has_ended(pid, tid) => return Ok(None),
            Err(TraceError::NotStopping { .. }) if Instant::now() < deadline => thread = Running::adopt(tid),
            Err(TraceError::NotStopping { wchan, .. }) => {
                return Err(match vfork::borrower(pid, tid) {
                    Some(child) => TraceError::WaitsForChild { tid, limit, child: child.to_string() },
                    None => TraceError::NotStopping { tid, limit, wchan },
                });
            }
            Err(e) => return Err(e),
        }
    }
}

/// Whether we trace a thread already.
fn is_ours(pid: i32, tid: i32) -> bool {
    let status = read_proc(format!("/proc/{pid}/task/{tid}/status"), procfs::status::parse);
    status.is_ok_and(|status| status.tracer_pid == std::process::id() as i32)
}

/// Whether a signal waits in a queue.
fn queue_has(tid: i32, queue: Queue, signal: i32) -> Result<bool, SysError> {
    let mut from = 0;
    let mut buffer = [[0; SIGINFO_SIZE]; 4];
    loop {
        let count = ptrace::peek_siginfo(tid, queue, from, &mut buffer)?;
        let found = buffer.iter().take(count).any(|info| info.starts_with(&signal.to_le_bytes()));
        if found || count < buffer.len() {
            return Ok(found);
        }
        from += count as u64;
    }
}

fn gone_is_fine(e: SysError) -> Result<(), SysError> {
    if e.errno == Errno::ESRCH { Ok(()) } else { Err(e) }
}

/// Says more about a refused attach than `EPERM`.
fn seize_error(tid: i32, e: SysError) -> Problem {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let tracer =
        status.lines().find_map(|l| l.strip_prefix("TracerPid:")).and_then(|p| p.trim().parse::<i32>().ok());
    match tracer {
        Some(pid) if pid != 0 => {
            let tracer = task_name(pid).map_or_else(|| format!("process {pid}"), |name| name.to_string());
            Problem::new(FreezeError::Traced { tracer })
        }
        _ => Problem::new(e),
    }
}

/// How many threads a process has that are not gone: each is a link of the directory, which has two of its own
/// (`proc_task_getattr` of fs/proc/base.c).
pub(crate) fn thread_count(pid: i32) -> Option<usize> {
    let links = nix::sys::stat::stat(format!("/proc/{pid}/task").as_str()).ok()?.st_nlink;
    usize::try_from(links).ok()?.checked_sub(2)
}

fn thread_ids(pid: i32) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
