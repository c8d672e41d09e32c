//! The agent's entry points, its loop, and the way back into what it interrupted; nothing else.
//!
//! A thread enters at `agent_serve` (the leader: it serves batches until the engine is gone) or at `agent_once` (any
//! other thread: it serves the one batch in its slot, then waits). The engine takes a thread out again by stopping it
//! and setting its registers. When the engine is gone instead, its end of the socket closes; then every thread puts its
//! own registers back and goes on with what it was doing when it was interrupted.
#![no_std]
#![no_main]

use core::arch::global_asm;

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering};

use parasite::abi::{Header, MAX_FDS, MAX_MESSAGE, Reply, Slot};
use parasite::interpreter::Batch;
use parasite::syscall;

// Entry: rdi = the leader's slot, rsi and rdx = the part of our memory that must become writable, rsp = a stack.
// Memory that is both writable and executable is refused to some tasks (PR_SET_MDWE), whose data the first call makes
// writable; until it is made, nothing may touch the stack.
global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl agent_serve",
    "agent_serve:",
    "    mov r12, rdi",
    "    mov rdi, rsi",
    "    mov rsi, rdx",
    "    mov edx, 3",
    "    mov eax, 10",
    "    syscall",
    "    mov rdi, r12",
    // Whoever has writable memory enters here, and a task that was cloned by an agent.
    ".globl agent_again",
    "agent_again:",
    "    mov r12, rdi",
    "    fxsave64 [rdi + 512]",
    "    call {serve}",
    "    jmp agent_resume",
    ".globl agent_once",
    "agent_once:",
    "    mov r12, rdi",
    "    fxsave64 [rdi + 512]",
    "    call {once}",
    "agent_resume:",
    "    mov rdi, r12",
    "    fxrstor64 [rdi + 512]",
    // Back to what the thread was doing. No rt_sigreturn: it would lose the thread's restart block, and a sleep or
    // poll that we interrupted would fail with EINTR.
    "    mov rsp, rdi",
    "    popfq",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop r11",
    "    pop r10",
    "    pop r9",
    "    pop r8",
    "    pop rbp",
    "    pop rbx",
    "    pop rsi",
    "    pop rdx",
    "    pop rcx",
    "    pop rax",
    "    jmp qword ptr [rdi + 128]",
    // The landing pad: a copy of what follows lies outside of the agent's memory, in memory that the task has anyway. The
    // call that makes the agent's memory and those that take it away are made from here, so that a thread whose tracer
    // dies meanwhile goes on here, and finds back. It uses no stack, and touches no extended registers.
    "    .balign 16",
    // The call is mmap, with its arguments in the registers.
    ".globl agent_landing",
    "agent_landing:",
    "    syscall",
    "    mov rbx, rax",
    // The engine stops the thread here, where it takes a signal that nobody else would notice; 0 is none.
    "    mov eax, 39",
    "    syscall",
    "    mov r12, rax",
    "    mov eax, 186",
    "    syscall",
    "    mov rdi, r12",
    "    mov rsi, rax",
    "    mov rdx, qword ptr [rip + agent_landing_data + 184]",
    "    mov eax, 234",
    "    syscall",
    ".globl agent_landing_told",
    "agent_landing_told:",
    "    mov rdi, rbx",
    "    jmp 2f",
    // The agent is to be left: the socket is closed, and its memory unmapped.
    ".globl agent_landing_leave",
    "agent_landing_leave:",
    "    mov rdi, qword ptr [rip + agent_landing_data + 16]",
    "    mov eax, 3",
    "    syscall",
    "    mov rdi, qword ptr [rip + agent_landing_data]",
    "2:  mov rsi, qword ptr [rip + agent_landing_data + 8]",
    "    mov eax, 11",
    "    syscall",
    // From the moment on that signals come in, the stack must be the thread's own.
    "    mov rsp, qword ptr [rip + agent_landing_data + 168]",
    "    mov edi, 2",
    "    lea rsi, [rip + agent_landing_data + 24]",
    "    xor edx, edx",
    "    mov r10d, 8",
    "    mov eax, 14",
    "    syscall",
    // Flags first, as moves leave them alone: adding 127 to 1 sets the overflow flag, sahf sets the others.
    "    cld",
    "    test byte ptr [rip + agent_landing_data + 34], 1",
    "    jz 3f",
    "    std",
    "3:  mov eax, dword ptr [rip + agent_landing_data + 32]",
    "    add al, 0x7f",
    "    sahf",
    "    mov r15, qword ptr [rip + agent_landing_data + 48]",
    "    mov r14, qword ptr [rip + agent_landing_data + 56]",
    "    mov r13, qword ptr [rip + agent_landing_data + 64]",
    "    mov r12, qword ptr [rip + agent_landing_data + 72]",
    "    mov r11, qword ptr [rip + agent_landing_data + 80]",
    "    mov r10, qword ptr [rip + agent_landing_data + 88]",
    "    mov r9, qword ptr [rip + agent_landing_data + 96]",
    "    mov r8, qword ptr [rip + agent_landing_data + 104]",
    "    mov rbp, qword ptr [rip + agent_landing_data + 112]",
    "    mov rbx, qword ptr [rip + agent_landing_data + 120]",
    "    mov rsi, qword ptr [rip + agent_landing_data + 128]",
    "    mov rdx, qword ptr [rip + agent_landing_data + 136]",
    "    mov rcx, qword ptr [rip + agent_landing_data + 144]",
    "    mov rax, qword ptr [rip + agent_landing_data + 152]",
    "    mov rdi, qword ptr [rip + agent_landing_data + 160]",
    "    jmp qword ptr [rip + agent_landing_data + 176]",
    "    .balign 8",
    ".globl agent_landing_data",
    "agent_landing_data:",
    "    .zero 192",
    ".globl agent_landing_end",
    "agent_landing_end:",
    // A signal (edi) to this thread itself: the engine stops the thread behind it. Nobody else notices, as it does nothing to
    // the task.
    "agent_tell:",
    "    mov r8d, edi",
    "    mov eax, 39",
    "    syscall",
    "    mov r9, rax",
    "    mov eax, 186",
    "    syscall",
    "    mov rdi, r9",
    "    mov rsi, rax",
    "    mov edx, r8d",
    "    mov eax, 234",
    "    syscall",
    ".globl agent_told",
    "agent_told:",
    "    ret",
    // A copy of a task, made only to be looked at, goes here when the engine is gone: it must never run on as the task.
    ".globl agent_end",
    "agent_end:",
    "    xor edi, edi",
    "    mov eax, 231",
    "    syscall",
    "    jmp agent_end",
    serve = sym serve,
    once = sym once,
);

const SYS_CLOSE: u64 = 3;
const SYS_RT_SIGPROCMASK: u64 = 14;
const SYS_SENDMSG: u64 = 46;
const SYS_RECVMSG: u64 = 47;
const SYS_SOCKETPAIR: u64 = 53;
const SYS_FUTEX: u64 = 202;
const SYS_DUP3: u64 = 292;
const SYS_CLOSE_RANGE: u64 = 436;

const AF_UNIX: u64 = 1;
const SOCK_SEQPACKET_CLOEXEC: u64 = 5 | 0o200_0000;
const MSG_NOSIGNAL: u64 = 0x4000;
const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
const O_CLOEXEC: u64 = 0o200_0000;
const SIG_SETMASK: u64 = 2;
const FUTEX_WAIT_PRIVATE: u64 = 128;
const FUTEX_WAKE_PRIVATE: u64 = 1 | 128;
const EINTR: i64 = -4;

/// `struct iovec`.
#[repr(C)]
struct IoVec {
    base: u64,
    len: u64,
}

/// `struct msghdr`.
#[repr(C)]
struct MsgHdr {
    name: u64,
    name_len: u64,
    iov: u64,
    iov_len: u64,
    control: u64,
    control_len: u64,
    flags: u64,
}

/// Room for one `SCM_RIGHTS` message: `struct cmsghdr` and the descriptors.
#[repr(C)]
struct Control {
    len: u64,
    level: i32,
    kind: i32,
    fds: [MaybeUninit<i32>; MAX_FDS],
}

/// Serves batches until the engine is gone.
unsafe extern "C" fn serve(slot: *mut Slot) {
    // SAFETY: the engine made the slot and nobody else uses it while this thread is in here.
    let slot = unsafe { &mut *slot };
    begin(slot);
    if !connect(slot) {
        return leave(slot);
    }
    let buffer = core::ptr::with_exposed_provenance_mut::<u8>(slot.buffer as usize);
    // SAFETY: the engine gave this thread a buffer of that size.
    let buffer = unsafe { core::slice::from_raw_parts_mut(buffer, MAX_MESSAGE) };
    let mut control = Control { len: 0, level: 0, kind: 0, fds: [MaybeUninit::uninit(); MAX_FDS] };
    loop {
        let mut iov = IoVec { base: address(buffer.as_mut_ptr()), len: MAX_MESSAGE as u64 };
        let mut message = MsgHdr {
            name: 0,
            name_len: 0,
            iov: address(&raw mut iov),
            iov_len: 1,
            control: address(&raw mut control),
            control_len: size_of::<Control>() as u64,
            flags: 0,
        };
        let args = [socket(slot), address(&raw mut message), MSG_CMSG_CLOEXEC, 0, 0, 0];
        // SAFETY: all that the kernel writes to is ours and large enough.
        let received = unsafe { syscall::raw(SYS_RECVMSG, args) };
        if received == EINTR {
            continue;
        }
        if received <= 0 {
            break;
        }
        let count = if message.control_len >= 16 { (control.len as usize).saturating_sub(16) / 4 } else { 0 };
        let fds = control.fds.get(..count).unwrap_or(&[]);
        // SAFETY: the kernel wrote that many descriptors.
        let fds = unsafe { core::slice::from_raw_parts(fds.as_ptr().cast::<i32>(), fds.len()) };
        let Some(packet) = buffer.get_mut(..received as usize) else { break };
        if !run_and_reply(slot, packet, fds) {
            break;
        }
    }
    leave(slot);
}

/// Makes the calls of the batches that the thread begins with, and leaves the answers where they are.
fn begin(slot: &mut Slot) {
    let batches = core::ptr::with_exposed_provenance_mut::<u8>(slot.batch as usize);
    // SAFETY: the engine wrote batches of that length there.
    let mut batches = unsafe { core::slice::from_raw_parts_mut(batches, slot.batch_len as usize) };
    let results = core::ptr::with_exposed_provenance_mut::<i64>(slot.results as usize);
    // SAFETY: the engine gave this thread room for that many results.
    let results = unsafe { core::slice::from_raw_parts_mut(results, slot.max_calls as usize) };
    let mut made = 0;
    while let Some((mut batch, rest)) = Batch::split(batches) {
        let Some(results) = results.get_mut(made..).filter(|room| batch.calls() <= room.len()) else { break };
        // SAFETY: the engine decides what happens to this process.
        let of_this = unsafe { batch.run(&[], results) };
        made += of_this;
        if of_this < batch.calls() {
            break;
        }
        batches = rest;
    }
    // SAFETY: a plain write to our own memory, which the engine reads.
    unsafe { (&raw mut slot.made).write_volatile(made as u32) };
}

/// Serves the batch in the slot, then waits to be taken out, or for the engine to be gone.
unsafe extern "C" fn once(slot: *mut Slot) {
    // SAFETY: the engine made the slot and nobody else uses it while this thread is in here.
    let slot = unsafe { &mut *slot };
    let batch = core::ptr::with_exposed_provenance_mut::<u8>(slot.batch as usize);
    // SAFETY: the engine wrote a batch of that length there.
    let batch = unsafe { core::slice::from_raw_parts_mut(batch, slot.batch_len as usize) };
    let made = Batch::parse(batch).and_then(|mut batch| run(slot, &mut batch, &[]));
    // SAFETY: a plain write to our own memory, which the engine reads when all are done.
    unsafe { (&raw mut slot.made).write_volatile(made.unwrap_or(0) as u32) };
    // SAFETY: the word is aligned and stays mapped while any thread is in the agent.
    let done = unsafe { AtomicU32::from_ptr(core::ptr::with_exposed_provenance_mut(slot.done as usize)) };
    if done.fetch_add(1, Ordering::AcqRel) + 1 == slot.together {
        reply(slot, 0, &[], &[]);
    }
    loop {
        // SAFETY: the word is aligned and stays mapped while any thread is in the agent.
        let gone = unsafe { core::ptr::with_exposed_provenance::<u32>(slot.gone as usize).read_volatile() };
        if gone != 0 {
            break;
        }
        // SAFETY: waits on that word; changes nothing.
        unsafe { syscall::raw(SYS_FUTEX, [slot.gone, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0]) };
    }
    set_sigmask(slot);
}

/// Has a socket to the engine, under the number that it is to have: that it was born with, or one of a pair.
fn connect(slot: &mut Slot) -> bool {
    if slot.socket < 0 && !make_pair(slot) {
        return false;
    }
    let (now, wanted) = (slot.socket, slot.wanted_socket);
    if wanted < 0 || wanted == now {
        return true;
    }
    // SAFETY: makes a descriptor, under a number of which the engine knows that nobody needs it.
    let moved = unsafe { syscall::raw(SYS_DUP3, [now as u64, wanted as u64, O_CLOEXEC, 0, 0, 0]) };
    if syscall::failed(moved) {
        return false;
    }
    // SAFETY: closes the descriptor that was moved.
    unsafe { syscall::raw(SYS_CLOSE, [now as u64, 0, 0, 0, 0, 0]) };
    slot.socket = wanted;
    true
}

/// Closes all descriptors but the socket.
fn close_others(slot: &Slot) -> bool {
    let own = socket(slot);
    // SAFETY: closes descriptors of a table that is ours alone.
    let above = unsafe { syscall::raw(SYS_CLOSE_RANGE, [own + 1, u32::MAX as u64, 0, 0, 0, 0]) };
    // SAFETY: as before; the engine gives nobody the number 0.
    let below = unsafe { syscall::raw(SYS_CLOSE_RANGE, [0, own.wrapping_sub(1), 0, 0, 0, 0]) };
    !syscall::failed(above) && !syscall::failed(below)
}

/// Makes the pair of sockets. The engine looks at this thread before the end that is the engine's is closed, and takes it.
fn make_pair(slot: &mut Slot) -> bool {
    let mut pair = [-1_i32; 2];
    let at = address(&raw mut pair);
    // SAFETY: the kernel writes two numbers to `pair`.
    let made = unsafe { syscall::raw(SYS_SOCKETPAIR, [AF_UNIX, SOCK_SEQPACKET_CLOEXEC, 0, at, 0, 0]) };
    // SAFETY: `pair` was written by the kernel, behind the compiler's back.
    let [ours, theirs] = unsafe { (&raw const pair).read_volatile() };
    let failed = syscall::failed(made);
    // SAFETY: a plain write to our own memory, which the engine reads.
    unsafe { (&raw mut slot.socket).write_volatile(ours) };
    let theirs = if failed { made as i32 } else { theirs };
    // SAFETY: as above.
    unsafe { (&raw mut slot.engine_socket).write_volatile(theirs) };
    if slot.signal != 0 {
        tell(slot.signal);
    }
    if failed {
        return false;
    }
    // SAFETY: closes the copy of the engine's end, without which the end of the engine would go unnoticed.
    unsafe { syscall::raw(SYS_CLOSE, [theirs as u64, 0, 0, 0, 0, 0]) };
    true
}

/// Stops for the engine, if there is one.
fn tell(signal: u32) {
    // SAFETY: it changes no memory, and the registers that are named here.
    unsafe {
        core::arch::asm!(
            "call agent_tell",
            inout("edi") signal => _, out("rsi") _, out("rdx") _, out("r8") _, out("r9") _,
            out("rax") _, out("rcx") _, out("r11") _,
        );
    }
}

/// Runs one message and answers it; false when there is nobody to answer, or no sense in going on. A clone that is born in it
/// has been asked nothing yet.
fn run_and_reply(slot: &mut Slot, packet: &mut [u8], fds: &[i32]) -> bool {
    let Some(mut batch) = Batch::parse(packet) else { return false };
    let Some(made) = run(slot, &mut batch, fds) else { return false };
    if let Some([socket, wanted]) = batch.born {
        (slot.socket, slot.wanted_socket) = (socket, wanted);
        return connect(slot) && close_others(slot);
    }
    let data = batch.data.get(batch.reply.clone()).unwrap_or(&[]);
    let results = core::ptr::with_exposed_provenance::<u8>(slot.results as usize);
    // SAFETY: that many results were written there.
    let results = unsafe { core::slice::from_raw_parts(results, made * 8) };
    reply(slot, made, results, data)
}

/// Makes the calls of a batch; how many, or none if there is no room for their results.
fn run(slot: &Slot, batch: &mut Batch<'_>, fds: &[i32]) -> Option<usize> {
    let results = core::ptr::with_exposed_provenance_mut::<i64>(slot.results as usize);
    // SAFETY: the engine gave this thread room for that many results, and zeroed it.
    let results = unsafe { core::slice::from_raw_parts_mut(results, slot.max_calls as usize) };
    if batch.calls() > results.len() {
        return None;
    }
    // SAFETY: the engine decides what happens to this process.
    Some(unsafe { batch.run(fds, results) })
}

/// Sends a reply; false when there is nobody to answer.
fn reply(slot: &Slot, made: usize, results: &[u8], data: &[u8]) -> bool {
    let mut reply = Reply { made: made as u32, slot: slot.index };
    let part =
        |bytes: &[u8]| IoVec { base: bytes.as_ptr().expose_provenance() as u64, len: bytes.len() as u64 };
    let iov =
        [IoVec { base: address(&raw mut reply), len: size_of::<Reply>() as u64 }, part(results), part(data)];
    let mut message = MsgHdr {
        name: 0,
        name_len: 0,
        iov: iov.as_ptr().expose_provenance() as u64,
        iov_len: 3,
        control: 0,
        control_len: 0,
        flags: 0,
    };
    let args = [socket(slot), address(&raw mut message), MSG_NOSIGNAL, 0, 0, 0];
    // SAFETY: the kernel reads our own memory.
    !syscall::failed(unsafe { syscall::raw(SYS_SENDMSG, args) })
}

/// The engine is gone: wakes the threads that wait for that, and gives back descriptor and signal mask.
fn leave(slot: &Slot) {
    // SAFETY: the word is aligned, and only set, never read, by this thread.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(slot.gone as usize).write_volatile(1) };
    // SAFETY: wakes threads of ours.
    unsafe { syscall::raw(SYS_FUTEX, [slot.gone, FUTEX_WAKE_PRIVATE, i32::MAX as u64, 0, 0, 0]) };
    if slot.socket >= 0 {
        // SAFETY: closes the descriptor that the agent made.
        unsafe { syscall::raw(SYS_CLOSE, [socket(slot), 0, 0, 0, 0, 0]) };
    }
    set_sigmask(slot);
}

/// Puts the thread's own blocked signals back.
fn set_sigmask(slot: &Slot) {
    let mask = (&raw const slot.sigmask).expose_provenance() as u64;
    // SAFETY: reads eight bytes of the slot.
    unsafe { syscall::raw(SYS_RT_SIGPROCMASK, [SIG_SETMASK, mask, 0, 8, 0, 0]) };
}

/// The agent's end of the socket, under the number that it has now: the engine may give it another one.
fn socket(slot: &Slot) -> u64 {
    // SAFETY: a plain read, which the compiler must not think it did already.
    unsafe { (&raw const slot.socket).read_volatile() as u64 }
}

/// The address of something of ours that the kernel will write to.
fn address<T>(pointer: *mut T) -> u64 {
    pointer.expose_provenance() as u64
}

const _: () = assert!(size_of::<Header>() == 16);

/// The compiler asks for one; nothing here can panic, and the build fails if this is ever linked in.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// What the compiler calls for copies; without it they would be undefined.
///
/// # Safety
/// As `memcpy(3)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(dest: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise; `rep movsb` touches exactly `len` bytes of both.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rdi") dest => _, inout("rsi") src => _,
            options(nostack, preserves_flags),
        );
    }
    dest
}
