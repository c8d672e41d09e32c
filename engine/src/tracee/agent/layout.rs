//! Where the parts of an agent's memory are, and what is written there before a thread enters.

use std::rc::Rc;

use parasite::abi::{
    MAX_CALLS, MAX_MESSAGE, SLOT_BATCH, SLOT_CALLS, SLOT_RESULTS, SLOT_STRIDE, SavedRegs, Slot,
    TRAMPOLINE_CODE, TRAMPOLINE_STRIDE,
};
use zerocopy::FromZeros as _;

use super::{BLOB, Saved};
use crate::tracee::batch::Batch;
use crate::tracee::regs;

const PAGE: u64 = 4096;
/// Stack of the thread that serves.
const STACK: u64 = 16 * 1024;

const _: () = assert!(64 + MAX_CALLS * 8 <= PAGE as usize);

/// Where the parts of an agent's memory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// First address.
    pub base: u64,
    /// How many threads it serves.
    pub threads: usize,
}

impl Layout {
    pub(super) fn trampolines(self) -> u64 {
        self.base + (BLOB.len() as u64).next_multiple_of(TRAMPOLINE_STRIDE as u64)
    }

    pub(super) fn data(self) -> u64 {
        (self.trampolines() + (self.threads * TRAMPOLINE_STRIDE) as u64).next_multiple_of(PAGE)
    }

    /// The word that counts the threads that are done with their batches.
    pub(super) fn done(self) -> u64 {
        self.data() + 4
    }

    pub(super) fn results(self) -> u64 {
        self.data() + 64
    }

    pub(super) fn buffer(self) -> u64 {
        self.data() + PAGE
    }

    pub(super) fn stack_top(self) -> u64 {
        self.buffer() + MAX_MESSAGE as u64 + STACK
    }

    pub(super) fn slot(self, index: usize) -> u64 {
        self.stack_top() + (index * SLOT_STRIDE) as u64
    }

    pub(super) fn end(self) -> u64 {
        self.slot(self.threads)
    }

    /// The layout of an agent behind `place` others.
    #[must_use]
    pub fn at_place(self, place: usize) -> Self {
        Self { base: self.base + place as u64 * Self::size(self.threads), ..self }
    }

    /// Adds the call that maps memory for an agent.
    pub fn add_map(self, batch: &mut Batch<'_>) {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let args = crate::args![self.base, Self::size(self.threads), prot, flags, -1, 0];
        batch.call("mmap (for an agent)", libc::SYS_mmap, args);
    }

    /// Bytes of memory that an agent for that many threads needs.
    pub fn size(threads: usize) -> u64 {
        Self { base: 0, threads }.end()
    }
}

impl Layout {
    /// What all threads will do that this agent has room for, if it is the same.
    pub(super) fn for_all(self, saved: Saved) -> Vec<Rc<Saved>> {
        std::iter::repeat_n(Rc::new(saved), self.threads).collect()
    }

    /// The slot of a thread that serves one batch of `batch_len` bytes.
    pub(super) fn fill_slot(self, index: usize, saved: &Saved, socket: i32, batch_len: usize) -> Slot {
        let mut slot = Slot::new_zeroed();
        let regs = regs::after_restart(&saved.regs);
        slot.regs = saved_regs(&regs);
        slot.sigmask = saved.sigmask;
        slot.trampoline = self.trampolines() + (index * TRAMPOLINE_STRIDE) as u64;
        slot.index = index as u32;
        slot.gone = self.data();
        slot.socket = socket;
        slot.engine_socket = -1;
        slot.batch = self.slot(index) + SLOT_BATCH as u64;
        slot.batch_len = batch_len as u32;
        slot.results = self.slot(index) + SLOT_RESULTS as u64;
        slot.max_calls = SLOT_CALLS as u64;
        slot.done = self.done();
        slot
    }

    /// The slot of the thread that serves until the engine is gone.
    pub(super) fn fill_serving_slot(self, saved: &Saved, wanted_socket: Option<i32>) -> Slot {
        let mut slot = self.fill_slot(0, saved, -1, 0);
        slot.wanted_socket = wanted_socket.unwrap_or(-1);
        slot.buffer = self.buffer();
        slot.results = self.results();
        slot.max_calls = MAX_CALLS as u64;
        slot
    }

    /// Code, then the trampolines of all threads.
    pub(super) fn code(self, saved: &[Rc<Saved>]) -> Vec<u8> {
        let mut code = BLOB.to_vec();
        code.resize((self.trampolines() - self.base) as usize, 0);
        for saved in saved {
            let regs = regs::after_restart(&saved.regs);
            let start = code.len();
            code.extend_from_slice(&TRAMPOLINE_CODE);
            for register in [regs.rdi, regs.rsp, regs.rip] {
                code.extend_from_slice(&register.to_le_bytes());
            }
            code.resize(start + TRAMPOLINE_STRIDE, 0);
        }
        code
    }
}

/// The registers that are put back one by one.
pub(super) fn saved_regs(regs: &libc::user_regs_struct) -> SavedRegs {
    SavedRegs {
        rflags: regs.eflags,
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        rbp: regs.rbp,
        rbx: regs.rbx,
        rsi: regs.rsi,
        rdx: regs.rdx,
        rcx: regs.rcx,
        rax: regs.rax,
    }
}
