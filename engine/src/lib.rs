//! Checkpoint and restore of running Linux process trees.
#![deny(unsafe_code)]

pub mod check;
pub mod cli;
pub mod config;
pub mod dump;
pub mod error;
pub mod logging;
pub mod options;
pub mod procfs;
pub mod restore;
mod sys;
