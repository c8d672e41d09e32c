//! Everything that depends on the processor's architecture, so that another one is an addition.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    ASKED_FOR, ArchError, check_registers, dump_registers, processor, restore_registers, restored_xstate,
    warm_up,
};
