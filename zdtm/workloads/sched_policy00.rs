//! Scheduling policies and real-time priorities are kept.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict};

const POLICIES: [(i32, i32); 4] =
    [(libc::SCHED_BATCH, 0), (libc::SCHED_IDLE, 0), (libc::SCHED_RR, 7), (libc::SCHED_FIFO, 11)];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut children = Vec::new();
    for (policy, priority) in POLICIES {
        children.push(cx.child(|cx| {
            set(policy, priority)?;
            cx.post(&format!("policy-{policy}"))?;
            cx.park()?;
            ensure_eq!(get()?, (policy, priority), "policy and priority");
            Ok(())
        })?);
    }
    POLICIES.iter().try_for_each(|(policy, _)| cx.wait_for(&format!("policy-{policy}")))?;
    cx.barrier()?;
    children.into_iter().try_for_each(Child::join)
}

fn set(policy: i32, priority: i32) -> Verdict {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameter lives during the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) })?;
    Ok(())
}

fn get() -> Result<(i32, i32), Failure> {
    // SAFETY: the call takes a number.
    let policy = Errno::result(unsafe { libc::sched_getscheduler(0) })?;
    let mut parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is written during the call.
    Errno::result(unsafe { libc::sched_getparam(0, &raw mut parameter) })?;
    Ok((policy, parameter.sched_priority))
}
