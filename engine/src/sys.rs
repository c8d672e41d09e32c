//! System calls that nix does not wrap.
#![expect(unsafe_code, reason = "this is where it lives")]
#![allow(
    unreachable_pub,
    reason = "the module is private to the crate; `pub` says which functions its files offer"
)]

pub mod probe;
