//! Latency, scaling and throughput of dump and restore, as a user meets them: wall time of the whole command.
//!
//! Run `cargo bench -p benches`, or `cargo bench -p benches -- --quick`. Each bench ends with a table. Nothing is
//! asserted about time: a number says something only beside the memcpy of the same machine in the same run.
//!
//! - [`container`]: an init in namespaces of its own, with 40 mounts and a pair of network devices.
//! - [`copies`]: system calls that the bench of ways to copy compares.
//! - [`floor`]: the kernel's part of a dump and a restore, which nobody can leave out.
//! - [`memory`]: anonymous memory with 4 KiB or huge pages, and what memcpy makes of it.
//! - [`session`]: one process that is dumped and restored again and again.
//! - [`stasis`]: the command under measurement.
//! - [`suite`]: criterion, and the table at the end.

pub mod container;
pub mod copies;
pub mod floor;
pub mod memory;
pub mod session;
pub mod stasis;
pub mod suite;
