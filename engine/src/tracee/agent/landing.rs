//! The landing pad: a few instructions in a corner of the target's vdso, behind its code, from which the calls are made
//! that put the agent's memory there and take it away again.
//!
//! Such a call needs registers that are not the thread's own, and the memory that holds the agent, which could lead it
//! back, is not there yet or not there any more. Made from the pad, the call is followed by instructions that lead back
//! as well; we stop the thread before it gets to them, unless we are dead.
//!
//! The vdso's last page ends in zeros that nobody uses. A write to them gives the task a page of its own, as a debugger's
//! breakpoint does; they are zeros again when the agent is out.

use parasite::abi::Landing;
use zerocopy::IntoBytes as _;

use super::calls::Told;
use super::{BLOB, Saved, entry, layout};
use crate::error::SysError;
use crate::tracee::memory::Memory;
use crate::tracee::regs;

const PAGE: usize = 4096;
/// Zeros that must be left between the vdso's own contents and the pad.
const MARGIN: usize = 64;

/// A pad that is in place.
#[derive(Debug)]
pub(super) struct LandingPad {
    at: u64,
    data: Landing,
}

impl LandingPad {
    /// Puts a pad into the vdso `[start, end)`, for a thread that was doing this and an agent of `size` bytes; none where
    /// there is no room. The thread tells by `signal`, if there is one, that it has made its call.
    pub(super) fn put(
        memory: &Memory,
        vdso: (u64, u64),
        saved: &Saved,
        size: u64,
        signal: Option<i32>,
    ) -> Option<Self> {
        let mut page = [0; PAGE];
        let page_at = vdso.1.checked_sub(PAGE as u64).filter(|at| *at >= vdso.0)?;
        memory.read(page_at, &mut page).ok()?;
        let offset = (PAGE - code().len()) & !15;
        let (own, place) = page.split_at(offset);
        // An engine that was killed leaves its pad behind, when the thread that landed there is long gone from it.
        let left_over = place.starts_with(instructions());
        let used = own.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used + MARGIN > offset || !(left_over || place.iter().all(|byte| *byte == 0)) {
            return None;
        }
        let before = regs::after_restart(&saved.regs);
        let flag = |bit: u32| before.eflags >> bit & 1;
        let data = Landing {
            size,
            sigmask: saved.sigmask,
            // Overflow is bit 11 of the register, direction bit 10.
            flags: flag(11) | (before.eflags & 0xff) << 8 | flag(10) << 16,
            regs: layout::saved_regs(&before),
            rdi: before.rdi,
            rsp: before.rsp,
            rip: before.rip,
            signal: signal.unwrap_or(0) as u64,
            ..Landing::default()
        };
        let pad = Self { at: page_at + offset as u64, data };
        // Where /proc/PID/mem may not write what is not writable, there is no pad.
        pad.write(memory).ok()?;
        Some(pad)
    }

    /// Where a thread makes `mmap`.
    pub(super) fn entry(&self) -> u64 {
        self.at
    }

    /// Where it is when it tells, by its signal, what `call` returned.
    pub(super) fn told(&self, signal: i32, call: &'static str) -> Told {
        Told { signal, at: self.at + (entry::LANDING_TOLD - entry::LANDING), call: Some(call) }
    }

    /// Where a thread leaves an agent that is at `base` and has this socket: by `close`, then `munmap`.
    pub(super) fn leave(&mut self, memory: &Memory, base: u64, socket: i32) -> Result<u64, SysError> {
        self.data.base = base;
        self.data.socket = socket as u64;
        self.write(memory)?;
        Ok(self.at + (entry::LANDING_LEAVE - entry::LANDING))
    }

    /// Makes it zeros again.
    pub(super) fn erase(self, memory: &Memory) -> Result<(), SysError> {
        memory.write(self.at, &vec![0; code().len()])
    }

    fn write(&self, memory: &Memory) -> Result<(), SysError> {
        let mut bytes = instructions().to_vec();
        bytes.extend_from_slice(self.data.as_bytes());
        memory.write(self.at, &bytes)
    }
}

/// The code alone.
fn instructions() -> &'static [u8] {
    code().get(..(entry::LANDING_DATA - entry::LANDING) as usize).expect("the data is behind the code")
}

/// Code and room for the data.
fn code() -> &'static [u8] {
    let range = entry::LANDING as usize..entry::LANDING_END as usize;
    BLOB.get(range).expect("the build script found these symbols in the blob")
}
