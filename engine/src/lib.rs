//! Checkpoint and restore of running Linux process trees.
#![deny(unsafe_code)]

pub mod arch;
pub mod cgroups;
pub mod check;
pub mod checksum;
pub mod cli;
pub mod config;
pub mod cpuinfo;
pub mod crit;
pub mod dump;
pub mod error;
pub mod image;
pub mod inside;
pub mod kinds;
pub mod logging;
pub mod made_files;
pub mod mounts;
pub mod net_lock;
pub mod net_spaces;
pub mod netlink;
pub mod options;
pub mod pid_spaces;
pub mod plan;
pub mod procfs;
pub(crate) mod progress;
pub mod restore;
pub mod room;
pub mod side_by_side;
pub mod stats;
pub mod supervise;
pub(crate) mod sys;
pub mod tcp_repair;
pub mod terminals;
pub mod time_spaces;
pub mod tracee;
pub mod verify;
