//! The kernel, one file per subject: system calls that nix does not wrap, each wrapped once, and all of our `unsafe`.
//!
//! A function here makes one call, takes and returns typed values, and retries nothing. What a call means for a
//! checkpoint is decided elsewhere.
#![expect(unsafe_code, reason = "this is where it lives")]
#![allow(
    unreachable_pub,
    reason = "the module is private to the crate; `pub` says which functions its files offer"
)]

pub mod autofs;
pub mod bpf;
pub mod fanotify;
pub mod fcntl;
#[cfg(test)]
pub mod forked;
pub mod handle;
pub mod inotify;
pub mod ipc;
pub mod memory;
pub mod mount;
pub mod mqueue;
pub mod namespace;
pub mod pagemap;
pub mod pidfd;
pub mod probe;
pub mod process;
pub mod ptrace;
pub mod rlimit;
pub mod socket;
pub mod timer;
pub mod tty;
pub mod tun;
pub mod userfault;
pub mod vdso;
pub mod xattr;
pub mod xtables;
