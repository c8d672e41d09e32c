//! The command line.

pub mod crit;
