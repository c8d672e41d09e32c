//! What files that several tasks hold must know of those tasks.

use crate::dump::inspect::TaskFacts;
use crate::error::TaskName;

/// What is known of a task whose table was described.
#[derive(Debug, Clone)]
pub struct SeenTask {
    /// How messages name it.
    pub name: TaskName,
    /// Its pid.
    pub pid: u32,
    /// Its session; 0 for one that was begun outside of our pid namespace.
    pub session: u32,
    /// Its session, in ours.
    pub host_session: i32,
    /// Its controlling terminal's device, as `/proc/PID/stat` encodes it; 0 without one.
    pub terminal: i32,
    /// The foreground process group of its terminal; negative without one.
    pub foreground: i32,
}

impl SeenTask {
    pub(super) fn of(facts: &TaskFacts) -> Self {
        let leader = facts.leader();
        let here = |ids: &[i32]| ids.first().copied().unwrap_or(0) as u32;
        let comm = String::from_utf8_lossy(&leader.stat.comm).into_owned();
        Self {
            name: TaskName { host_pid: facts.pid, inner_pid: None, comm },
            pid: here(&leader.status.ns_pid),
            session: here(&leader.status.ns_sid),
            host_session: leader.stat.session,
            terminal: leader.stat.tty_nr,
            foreground: leader.stat.tpgid,
        }
    }
}
