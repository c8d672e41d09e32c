//! System calls that nix does not wrap.
