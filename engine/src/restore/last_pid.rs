//! Numbers of threads whose maker may not choose them.
//!
//! `clone3` with `set_tid` takes `CAP_CHECKPOINT_RESTORE` over each pid namespace in which a number is chosen, and a task in a user
//! namespace below that of the tree has none over the outer ones. The kernel gives numbers in ascending order, though, and we may say
//! which it gave last (`ns_last_pid`, Documentation/admin-guide/sysctl/kernel.rst). Whoever else makes a process between that and the
//! clone takes the number away: then the thread, which has not run yet, ends, and we try again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use nix::errno::Errno;

use super::pid_spaces::Wanted;
use super::stub::Stub;
use super::tree::{add_clone, wait_for_clone};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::last_pids::{self, PATH};
use crate::sys::ptrace::Resume;
use crate::tracee::batch::Batch;
use crate::tracee::stopped::{Stopped, TraceError};

/// How often somebody else may be faster.
pub(super) const TRIES: u32 = 2000;
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of the instruction `syscall`, behind which a clone begins.
const SYSCALL_LENGTH: u64 = 2;

/// The number that was given last in our pid namespace.
///
/// It is another one for no longer than a clone takes, and is put back then: else those who are made next would take numbers that a tree
/// had which is in images just now. Nor does another restore see it: it is locked.
#[derive(Debug)]
pub(super) struct LastPid(File);

impl LastPid {
    /// Opens it.
    pub(super) fn open() -> Result<Self, Problem> {
        let file = File::options().read(true).write(true).open(PATH).map_err(SysError::io("open"));
        file.map(Self).about(|| Object::Path(PATH.into()))
    }

    /// Has a clone get the numbers that its maker does not choose.
    pub(super) fn for_clone<T>(
        &self,
        wanted: &Wanted,
        clone: impl FnOnce() -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        for (init, number) in &wanted.others {
            last_pids::set_inside(*init, (number - 1).cast_unsigned())?;
        }
        self.0.lock().map_err(SysError::io("flock")).about(|| Object::Path(PATH.into()))?;
        let before = self.read()?;
        self.set(wanted.all.first().map_or(0, |pid| pid - 1))?;
        let cloned = clone();
        self.set(before)?;
        self.0.unlock().map_err(SysError::io("flock")).about(|| Object::Path(PATH.into()))?;
        cloned
    }

    fn read(&self) -> Result<i32, Problem> {
        let mut text = [0; 16];
        let read = self.0.read_at(&mut text, 0).map_err(SysError::io("read"));
        let read = read.about(|| Object::Path(PATH.into()))?;
        let text = text.get(..read).and_then(|text| std::str::from_utf8(text).ok());
        Ok(text.and_then(|text| text.trim().parse().ok()).unwrap_or_default())
    }

    fn set(&self, pid: i32) -> Result<(), Problem> {
        let written = self.0.write_all_at(pid.to_string().as_bytes(), 0).map_err(SysError::io("write"));
        written.about(|| Object::Path(PATH.into()))
    }

    /// Has a stub clone a thread with these numbers; the flags are those of clone(2).
    pub(super) fn clone_thread(
        &self,
        stub: &mut Stub,
        flags: i32,
        wanted: &Wanted,
    ) -> Result<Stopped, Problem> {
        for _ in 0..TRIES {
            let mut batch = Batch::new();
            let call = add_clone(&mut batch, flags as u64, 0, &wanted.chosen);
            self.for_clone(wanted, || Ok(stub.run("create its threads", &batch)?.result(call)?))?;
            let got = newest(stub).ok_or(SysError { call: "find its thread", errno: Errno::ESRCH })?;
            let thread = wait_for_clone(got)?;
            if wanted.are_those_of(&format!("/proc/{}/task/{got}/status", stub.pid))? {
                return Ok(thread);
            }
            log::debug!("{}: a thread got {got} instead of {:?}", stub.name, wanted.all);
            end(thread).while_trying_to("end a thread with the wrong number")?;
        }
        Err(Problem::new(SysError { call: "clone3", errno: Errno::EEXIST }))
    }
}

/// The thread that a stub made last.
fn newest(stub: &Stub) -> Option<i32> {
    let known: Vec<i32> = stub.threads.iter().flatten().map(Stopped::tid).chain([stub.pid]).collect();
    let names = std::fs::read_dir(format!("/proc/{}/task", stub.pid)).ok()?.flatten();
    let mut tids = names.filter_map(|name| name.file_name().to_str()?.parse().ok());
    tids.find(|tid| !known.contains(tid))
}

/// Ends a thread that has not run yet: the instruction in front of it becomes its exit.
fn end(thread: Stopped) -> Result<(), TraceError> {
    let mut regs = thread.regs()?;
    regs.rip -= SYSCALL_LENGTH;
    (regs.rax, regs.orig_rax, regs.rdi) = (libc::SYS_exit as u64, u64::MAX, 0);
    thread.set_regs(&regs)?;
    match thread.resume(Resume::Cont, 0)?.wait(LIMIT) {
        Err(TraceError::Died { .. }) => Ok(()),
        Err(e) => Err(e),
        Ok((thread, stop)) => Err(TraceError::Unexpected { tid: thread.tid(), stop }),
    }
}
