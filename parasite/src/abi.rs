//! What engine and agent agree on: the layout of messages, and of the memory the agent lives in.
//!
//! A message is a [`Header`], then `calls` times a [`Call`], then the batch's data. The reply is a [`Reply`], then a
//! result for each call, then the part of the data that the batch asked to have back. Both are one packet of a
//! `SOCK_SEQPACKET` socket, so they arrive whole or not at all.
//!
//! Threads that serve one batch have message and reply in memory instead ([`Slot::made`], [`Slot::results`], and the
//! batch's data where it is): many at once would wait for room in the socket.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Calls in one batch, at most.
pub const MAX_CALLS: usize = 256;
/// Descriptors that travel with one batch, at most (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_FDS: usize = 250;
/// Bytes of one message, at most; the agent's buffer is this large.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// How the agent reads one argument of a call; four bits for each of the six.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ArgKind {
    /// As it is.
    Value = 0,
    /// The address of the byte of the batch's data at this offset.
    Data = 1,
    /// The result of the call with this index.
    Result = 2,
    /// The number, in the target, of the descriptor that came with the batch at this index.
    Fd = 3,
}

impl ArgKind {
    /// Bits that one argument's kind takes in [`Call::kinds`].
    pub const BITS: u32 = 4;
}

/// One system call.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    /// Its number.
    pub number: u32,
    /// Whether its failure ends the batch, and what becomes of a child: [`Call::MAY_FAIL`] and the others.
    pub flags: u32,
    /// Six [`ArgKind`]s, the first argument's in the lowest bits.
    pub kinds: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// The arguments.
    pub args: [u64; 6],
}

impl Call {
    /// A failure is reported, and the batch goes on.
    pub const MAY_FAIL: u32 = 1;
    /// The call is `clone3(2)` for a child that shares our memory; a third argument are the arguments with which that child
    /// makes the call again, for a child that nobody waits for, before it ends; unless a tracer gives it something else to
    /// do, so does that child.
    pub const CLONES_TWICE: u32 = 2;
    /// The call is `clone3(2)` for a child with memory and descriptors of its own, which serves on: by the socket that a third
    /// argument is the number of, and under the number that is the fourth, when it has closed all others.
    pub const CHILD_SERVES: u32 = 4;
}

/// Begins a message to the agent.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// How many calls follow.
    pub calls: u32,
    /// How many bytes of data follow the calls.
    pub data: u32,
    /// Which part of the data the reply carries: from here …
    pub reply_from: u32,
    /// … this many bytes.
    pub reply_len: u32,
}

/// Begins a reply.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// How many calls were made; fewer than asked when one failed that must not.
    pub made: u32,
    /// The thread that made them: its slot's `index`.
    pub slot: u32,
}

/// A thread's place in the agent's memory: what it was doing, and where it goes when the engine is gone.
///
/// The engine fills it before the thread enters the agent. `resume` in the agent's entry file knows these offsets.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// General registers in the order of [`SavedRegs`]; everything but `rdi`, `rsp` and `rip`, which the thread's
    /// trampoline loads.
    pub regs: SavedRegs,
    /// The thread's blocked signals.
    pub sigmask: u64,
    /// Address of the thread's trampoline.
    pub trampoline: u64,
    /// Address of the batch for a thread that serves only one; for a leader, of those that it begins with, one behind the other.
    pub batch: u64,
    /// Their length in bytes.
    pub batch_len: u32,
    /// Which slot this is.
    pub index: u32,
    /// Address of the word (one for the process) that becomes 1 when the engine is gone.
    pub gone: u64,
    /// The agent's end of the socket; -1 for a leader that has to make it.
    pub socket: i32,
    /// The engine's end, which the engine takes by `pidfd_getfd` before the agent closes it; why there is none, if it is negative.
    pub engine_socket: i32,
    /// Where the agent's buffer of [`MAX_MESSAGE`] bytes is; 0 for a thread that serves one batch.
    pub buffer: u64,
    /// Where the results of calls go; room for `max_calls`.
    pub results: u64,
    /// Calls that one batch of this thread may have.
    pub max_calls: u64,
    /// The number that the agent's end of the socket is to have; -1 for any.
    pub wanted_socket: i32,
    /// For a thread that serves one batch: how many threads do so at the same time. The last of them tells the engine.
    pub together: u32,
    /// Address of the word that counts those of them that are done.
    pub done: u64,
    /// How many calls of its one batch the thread made, or of those that it began with.
    pub made: u32,
    /// The signal by which a leader tells that it has a pair of sockets; 0 if the engine sees that otherwise.
    pub signal: u32,
}

impl Slot {
    /// Where the `fxsave` area is; it must be aligned to 16 bytes.
    pub const FPU: usize = 512;
}

/// Registers that `resume` puts back, in the order in which it does.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SavedRegs {
    /// Flags register.
    pub rflags: u64,
    /// General register.
    pub r15: u64,
    /// General register.
    pub r14: u64,
    /// General register.
    pub r13: u64,
    /// General register.
    pub r12: u64,
    /// General register.
    pub r11: u64,
    /// General register.
    pub r10: u64,
    /// General register.
    pub r9: u64,
    /// General register.
    pub r8: u64,
    /// General register.
    pub rbp: u64,
    /// General register.
    pub rbx: u64,
    /// General register.
    pub rsi: u64,
    /// General register.
    pub rdx: u64,
    /// General register.
    pub rcx: u64,
    /// General register.
    pub rax: u64,
}

/// What a landing pad knows, behind its code (`agent_landing` in `bin/agent.rs`): how the thread that lands there gets rid
/// of the agent's memory, and what it was doing before.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Landing {
    /// First address of the agent's memory; only for leaving it.
    pub base: u64,
    /// Its size.
    pub size: u64,
    /// The agent's end of the socket; only for leaving.
    pub socket: u64,
    /// Blocked signals.
    pub sigmask: u64,
    /// Flags as the pad puts them together: the overflow flag in bit 0, the low byte of the register in bits 8 to 15, and
    /// the direction flag in bit 16.
    pub flags: u64,
    /// Registers; their `rflags` are not used.
    pub regs: SavedRegs,
    /// General register.
    pub rdi: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Where the thread goes on.
    pub rip: u64,
    /// The signal by which the thread tells that it has mapped memory; 0 if the engine sees that otherwise.
    pub signal: u64,
}

const _: () = assert!(core::mem::offset_of!(Landing, regs) == 40 && size_of::<Landing>() == 192);

/// Code of a trampoline, in front of its three addresses.
///
/// ```text
/// mov rdi, [rip + 13]   48 8b 3d 0d 00 00 00
/// mov rsp, [rip + 14]   48 8b 25 0e 00 00 00
/// jmp      [rip + 16]   ff 25 10 00 00 00
/// ```
/// It is 20 bytes long; `rdi`, `rsp` and `rip` follow at 20, 28 and 36.
pub const TRAMPOLINE_CODE: [u8; 20] =
    [0x48, 0x8b, 0x3d, 13, 0, 0, 0, 0x48, 0x8b, 0x25, 14, 0, 0, 0, 0xff, 0x25, 16, 0, 0, 0];
/// Bytes from one trampoline to the next.
pub const TRAMPOLINE_STRIDE: usize = 64;
/// Bytes from one thread's slot to the next: the slot, its FPU area, results, batch, and its stack, which begins at
/// the end.
pub const SLOT_STRIDE: usize = 16 * 1024;
/// Where a slot's batch begins.
pub const SLOT_BATCH: usize = 3072;
/// Bytes a slot's batch may have; the rest is the stack.
pub const SLOT_BATCH_MAX: usize = 10 * 1024;
/// Where the results of a slot's batch go.
pub const SLOT_RESULTS: usize = 1024;
/// Calls a slot's batch may have.
pub const SLOT_CALLS: usize = (SLOT_BATCH - SLOT_RESULTS) / 8;

const _: () = assert!(size_of::<Slot>() <= Slot::FPU);
const _: () = assert!(Slot::FPU + 512 <= SLOT_RESULTS);
const _: () = assert!(size_of::<Call>() == 64);
const _: () = assert!(core::mem::offset_of!(Slot, sigmask) == 120);
const _: () = assert!(core::mem::offset_of!(Slot, trampoline) == 128);
