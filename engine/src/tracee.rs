//! Other processes in our hands: stopped threads, their memory, and the agent that runs inside of them.
//!
//! Everything here belongs to the thread that traces; `ptrace(2)` knows tracers by thread, not by process.

pub mod agent;
pub mod batch;
pub mod cgroup;
pub mod freeze;
pub mod memory;
mod reaping;
pub mod regs;
pub(crate) mod seize;
pub mod sleep;
pub mod snapshot;
pub mod stopped;
mod vfork;
