//! The agent's parts that can be shared and tested: the layout of batches, and the interpreter that runs them.
//!
//! The agent is a hand without a head. It takes system calls from the engine, makes them, and reports what the kernel
//! said. It has no heap, no panic path, no thread-locals, no floating point and no statics, because it runs inside of
//! processes that it knows nothing about.
#![no_std]
#![deny(missing_docs)]

pub mod abi;
pub mod interpreter;
pub mod syscall;
