//! Runs the zoo: starts a workload, dumps it, restores it, and tells it to verify itself.
//!
//! A zoo entry is a YAML file ([`entry`]) that names one of our workloads ([`workload`]) or any program. Each entry
//! runs in a process of its own ([`trial`]), which is the child subreaper of everything the entry starts, so that
//! nothing outlives it. What the outside sees of the target ([`snapshot`]) is compared before and after.

pub mod cell;
pub mod cli;
pub mod engine;
pub mod entry;
pub mod need;
pub mod outcome;
pub mod probe;
pub mod procfs;
pub mod progress;
pub mod report;
pub mod run;
pub mod snapshot;
pub mod target;
pub mod trial;
pub mod watch;
pub mod workload;
pub mod zoo;
