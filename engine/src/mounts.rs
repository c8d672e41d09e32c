//! Mount namespaces: reading them, keeping them, and making them again.
//!
//! A dump reads the mounts of each namespace ([`read`]), decides which come from outside and refuses what cannot be brought
//! back ([`classify`]), and writes a table of mounts for each namespace, and an archive for each file system whose contents
//! nobody else keeps ([`write`]). A restore plans what is mounted from what ([`plan`]), opens what comes from outside while it
//! still sees it ([`outside`]), and builds the trees in a process of its own inside the new namespaces ([`build`]).
//!
//! Not saved: contents of file systems other than tmpfs, ramfs and devtmpfs; which mounts are locked against a less privileged user;
//! mounts with mapped ids; in-memory state of cgroup, mqueue and devpts, which other kinds keep.

mod archive;
mod below;
mod binfmt;
pub mod build;
pub mod classify;
pub mod envoy;
mod extract;
mod file_system;
mod flags;
mod fs_types;
mod home;
mod members;
pub mod model;
pub mod outside;
mod pax;
pub mod plan;
pub mod procfs;
pub mod read;
pub mod refusal;
mod removed;
mod reveal;
pub mod sockets;
pub mod surroundings;
pub mod write;
mod yard;
