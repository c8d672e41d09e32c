//! Agent.
#![no_std]
