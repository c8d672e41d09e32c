//! Births in user namespaces below that of the root (`super::super::user_spaces`).
//!
//! A pid namespace belongs to the user namespace that its maker is in, and everybody in it descends from its init, who is there as
//! well: so they are in that user namespace from their birth on. The init's parent, which may be needed outside yet, does not go
//! there itself: it makes a helper, which takes the ids of the init, goes there, and makes the init as its own sibling.
//!
//! Whoever is below chooses the number in its own pid namespace; that in the root's comes as with threads (`last_pid.rs`).

use std::fs;

use super::{EMPTY, NewTask, Nursery, add_clone, add_forget};
use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::kinds::task::creds;
use crate::restore::births::Actor;
use crate::restore::last_pid::{LastPid, TRIES};
use crate::restore::pid_spaces::Crossing;
use crate::restore::plan;
use crate::restore::stub::add_setns;
use crate::sys::process::{self, Waited};
use crate::tracee::batch::Batch;
use nix::errno::Errno;

/// The step in which somebody is made.
const STEP: &str = "create the process in a user namespace";

impl Nursery<'_, '_> {
    /// Whether somebody is born, and stays, below.
    pub(super) fn is_born_below(&self, new: i32, by: i32) -> bool {
        self.users.born_in(new).is_some() || self.users.born_in(by).is_some()
    }

    /// Has one made by somebody who may not choose all its numbers.
    pub(super) fn bear_below(&mut self, new: &NewTask<'_>, by: i32, flags: i32) -> Result<(), Problem> {
        if new.task.is_none() {
            self.numbers.add_helper(new.pid, by);
            self.users.add_helper(new.pid, by);
        }
        let begins = self.numbers.crossing(by, new.pid) == Crossing::Begins;
        if self.users.born_in(new.pid) == self.users.born_in(by) {
            let flags = if begins { flags | libc::CLONE_NEWPID } else { flags };
            return self.clone_below(new, by, by, flags);
        }
        let helper = plan::free_pids(self.tasks).next().unwrap_or_default();
        let mut stand_in = NewTask::helper(helper);
        // A sibling's exit signal is that of its maker.
        stand_in.exit_signal = new.exit_signal;
        self.clone_tasks(&[stand_in], by, 0)?;
        let mut batch = Batch::new();
        if let Some((_, task)) = new.task {
            creds::add_ids(task.core(), self.users.born_below(by), &mut batch);
        }
        let users = self.users.clone();
        if let Some(space) = users.born_in(new.pid).and_then(|id| users.get(id)) {
            add_setns(&mut batch, space, libc::CLONE_NEWUSER);
        }
        self.stub(helper)?.run("go into its user namespace", &batch)?;
        self.clone_below(new, helper, by, libc::CLONE_PARENT | libc::CLONE_NEWPID)?;
        let mut batch = Batch::new();
        let [new, parent] = [new.pid, by].map(|pid| self.actor(pid));
        self.heirlooms.disclaim(new, parent, self.tasks, &mut batch);
        let pid = self.pid(new);
        self.stub(pid)?.post(EMPTY, batch)?;
        self.end_helper(helper, by)?;
        // The next one has the same number, and may be elsewhere.
        self.numbers.forget(helper);
        self.users.forget(helper);
        Ok(())
    }

    /// Who has a pid.
    pub(super) fn actor(&self, pid: i32) -> Actor {
        let task = self.tasks.iter().position(|task| task.pid == pid);
        task.map_or(Actor::Helper(pid), Actor::Task)
    }

    /// Has `by` clone a child of `parent`, until that has its number.
    fn clone_below(&mut self, new: &NewTask<'_>, by: i32, parent: i32, flags: i32) -> Result<(), Problem> {
        let mut batch = Batch::new();
        let place = self.place_of_agent(by, flags, &mut batch)?;
        self.stub(by)?.run(STEP, &batch)?;
        let signal = if flags & libc::CLONE_PARENT == 0 { new.exit_signal } else { 0 };
        let user = self.users.born_in(new.pid);
        let wanted = self.numbers.wanted(new.pid, |space| self.users.pid_owner(space) == user);
        let last = LastPid::open()?;
        for _ in 0..TRIES {
            let mut batch = Batch::new();
            let call = add_clone(&mut batch, (flags | libc::CLONE_PTRACE) as u64, signal, &wanted.chosen);
            last.for_clone(&wanted, || Ok(self.stub(by)?.run(STEP, &batch)?.result(call)?))?;
            let got = youngest(parent).ok_or(SysError { call: "find its child", errno: Errno::ESRCH })?;
            if wanted.are_those_of(&format!("/proc/{got}/status"))? {
                return self.take_clones(std::slice::from_ref(new), by, flags, place);
            }
            log::debug!("{}: it got {got}", new.name);
            self.end_stranger(got, parent).while_trying_to("end a process with the wrong number")?;
        }
        Err(Problem::new(SysError { call: "clone3", errno: Errno::EEXIST }).step(STEP))
    }

    /// Ends a clone that has not run yet, and has its parent forget it.
    fn end_stranger(&mut self, pid: i32, parent: i32) -> Result<(), Problem> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .map_err(SysError::of("kill"))?;
        while let Ok(Waited::Stopped(_)) = process::wait(pid) {}
        let mut batch = Batch::new();
        batch.call("wait4", libc::SYS_wait4, args![-1, 0, libc::__WALL, 0]);
        add_forget(&mut batch, libc::SIGCHLD);
        self.stub(parent)?.run("reap a process", &batch)?;
        Ok(())
    }
}

/// The child that somebody got last: the kernel lists them by age.
fn youngest(parent: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    text.split_ascii_whitespace().last()?.parse().ok()
}
