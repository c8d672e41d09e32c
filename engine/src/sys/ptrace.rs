//! `ptrace(2)` requests that nix does not wrap.

use std::ffi::c_void;

use crate::error::SysError;

/// From `include/uapi/linux/elf.h`.
const NT_X86_XSTATE: usize = 0x202;
/// From `include/uapi/linux/ptrace.h`.
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;

/// Makes one request with plain numbers or pointers to live memory.
fn request(call: &'static str, op: u32, tid: i32, addr: usize, data: *mut c_void) -> Result<i64, SysError> {
    // SAFETY: each caller below passes pointers to memory that is live and as large as the request writes.
    let result = unsafe { libc::ptrace(op, tid, addr, data) };
    if result < 0 { Err(SysError::last(call)) } else { Ok(result) }
}

/// Reads the extended state (x87, SSE, AVX, …) in the XSAVE layout of the CPU; the length written.
pub fn get_xstate(tid: i32, buffer: &mut [u8]) -> Result<usize, SysError> {
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let data = (&raw mut iov).cast();
    request("ptrace(PTRACE_GETREGSET, NT_X86_XSTATE)", libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, data)?;
    Ok(iov.iov_len)
}

/// Sets the extended state.
pub fn set_xstate(tid: i32, buffer: &[u8]) -> Result<(), SysError> {
    let mut iov = libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() };
    let data = (&raw mut iov).cast();
    request("ptrace(PTRACE_SETREGSET, NT_X86_XSTATE)", libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, data)?;
    Ok(())
}

/// Reads the general registers.
pub fn get_regs(tid: i32) -> Result<libc::user_regs_struct, SysError> {
    let mut regs = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    request("ptrace(PTRACE_GETREGS)", libc::PTRACE_GETREGS, tid, 0, regs.as_mut_ptr().cast())?;
    // SAFETY: plain numbers, filled in by the kernel.
    Ok(unsafe { regs.assume_init() })
}

/// Sets the general registers.
pub fn set_regs(tid: i32, regs: &libc::user_regs_struct) -> Result<(), SysError> {
    let data = std::ptr::from_ref(regs).cast_mut().cast();
    request("ptrace(PTRACE_SETREGS)", libc::PTRACE_SETREGS, tid, 0, data)?;
    Ok(())
}

/// The thread's blocked signals.
pub fn get_sigmask(tid: i32) -> Result<u64, SysError> {
    let mut mask = 0_u64;
    let data = (&raw mut mask).cast();
    request("ptrace(PTRACE_GETSIGMASK)", libc::PTRACE_GETSIGMASK, tid, size_of::<u64>(), data)?;
    Ok(mask)
}

/// Sets the thread's blocked signals.
pub fn set_sigmask(tid: i32, mask: u64) -> Result<(), SysError> {
    let data = (&raw const mask).cast_mut().cast();
    request("ptrace(PTRACE_SETSIGMASK)", libc::PTRACE_SETSIGMASK, tid, size_of::<u64>(), data)?;
    Ok(())
}

/// Attaches to a thread without stopping it.
pub fn seize(tid: i32, options: i32) -> Result<(), SysError> {
    let data = std::ptr::without_provenance_mut(options as usize);
    request("ptrace(PTRACE_SEIZE)", libc::PTRACE_SEIZE, tid, 0, data)?;
    Ok(())
}

/// Asks a seized thread to stop.
pub fn interrupt(tid: i32) -> Result<(), SysError> {
    request("ptrace(PTRACE_INTERRUPT)", libc::PTRACE_INTERRUPT, tid, 0, std::ptr::null_mut())?;
    Ok(())
}

/// Replaces the options given when the thread was seized.
pub fn set_options(tid: i32, options: i32) -> Result<(), SysError> {
    let data = std::ptr::without_provenance_mut(options as usize);
    request("ptrace(PTRACE_SETOPTIONS)", libc::PTRACE_SETOPTIONS, tid, 0, data)?;
    Ok(())
}

/// What an event was about: the id of a new task, as we see it.
pub fn event_message(tid: i32) -> Result<u64, SysError> {
    let mut message: libc::c_ulong = 0;
    request("ptrace(PTRACE_GETEVENTMSG)", libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).cast())?;
    Ok(message)
}

/// How a stopped thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Until something happens.
    Cont,
    /// For one instruction; a system call counts as one.
    Step,
    /// Until it enters or leaves a system call.
    Syscall,
    /// Not at all, but it may be interrupted: only for a thread in the stop of its process.
    Listen,
    /// For good.
    Detach,
}

/// Lets a stopped thread go on, with a signal or 0.
pub fn resume(tid: i32, how: Resume, signal: i32) -> Result<(), SysError> {
    let (call, op) = match how {
        Resume::Cont => ("ptrace(PTRACE_CONT)", libc::PTRACE_CONT),
        Resume::Step => ("ptrace(PTRACE_SINGLESTEP)", libc::PTRACE_SINGLESTEP),
        Resume::Syscall => ("ptrace(PTRACE_SYSCALL)", libc::PTRACE_SYSCALL),
        Resume::Listen => ("ptrace(PTRACE_LISTEN)", libc::PTRACE_LISTEN),
        Resume::Detach => ("ptrace(PTRACE_DETACH)", libc::PTRACE_DETACH),
    };
    request(call, op, tid, 0, std::ptr::without_provenance_mut(signal as usize))?;
    Ok(())
}

/// A thread's rseq registration (`struct ptrace_rseq_configuration`, Linux 5.13); all zero without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Address of the thread's `struct rseq`.
    pub rseq_abi_pointer: u64,
    /// Its registered size.
    pub rseq_abi_size: u32,
    /// Signature in front of abort handlers.
    pub signature: u32,
    /// 0.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

/// Reads a thread's rseq registration.
pub fn rseq_configuration(tid: i32) -> Result<RseqConfiguration, SysError> {
    let mut conf = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    let call = "ptrace(PTRACE_GET_RSEQ_CONFIGURATION)";
    request(call, PTRACE_GET_RSEQ_CONFIGURATION, tid, size, (&raw mut conf).cast())?;
    Ok(conf)
}

/// Which queue of pending signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The thread's own.
    Thread,
    /// The process's.
    Shared,
}

/// Size of `siginfo_t`.
pub const SIGINFO_SIZE: usize = 128;

/// Reads up to `buffer.len()` pending signals from number `from` on, in order; how many there were.
pub fn peek_siginfo(
    tid: i32,
    queue: Queue,
    from: u64,
    buffer: &mut [[u8; SIGINFO_SIZE]],
) -> Result<usize, SysError> {
    /// `struct ptrace_peeksiginfo_args`.
    #[repr(C)]
    struct Args {
        off: u64,
        flags: u32,
        nr: i32,
    }
    let flags = if queue == Queue::Shared { PTRACE_PEEKSIGINFO_SHARED } else { 0 };
    let mut args = Args { off: from, flags, nr: i32::try_from(buffer.len()).unwrap_or(i32::MAX) };
    let addr = (&raw mut args).expose_provenance();
    let data = buffer.as_mut_ptr().cast();
    Ok(request("ptrace(PTRACE_PEEKSIGINFO)", libc::PTRACE_PEEKSIGINFO, tid, addr, data)? as usize)
}

/// The bytes of a thread's seccomp filter with this number, the oldest being 0; none if there are no more.
pub fn seccomp_filter(tid: i32, number: usize) -> Result<Option<Vec<u8>>, SysError> {
    const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
    let call = "ptrace(PTRACE_SECCOMP_GET_FILTER)";
    let instructions = match request(call, PTRACE_SECCOMP_GET_FILTER, tid, number, std::ptr::null_mut()) {
        Err(SysError { errno: nix::errno::Errno::ENOENT, .. }) => return Ok(None),
        other => other? as usize,
    };
    let mut program = vec![[0_u8; 8]; instructions];
    request(call, PTRACE_SECCOMP_GET_FILTER, tid, number, program.as_mut_ptr().cast())?;
    Ok(Some(program.concat()))
}

/// Flags of that filter, as far as the kernel tells them (Linux 4.16).
pub fn seccomp_flags(tid: i32, number: usize) -> Result<u64, SysError> {
    const PTRACE_SECCOMP_GET_METADATA: u32 = 0x420d;
    // struct seccomp_metadata: which filter, and its flags.
    let mut metadata = [number as u64, 0];
    let call = "ptrace(PTRACE_SECCOMP_GET_METADATA)";
    let data = metadata.as_mut_ptr().cast();
    request(call, PTRACE_SECCOMP_GET_METADATA, tid, size_of_val(&metadata), data)?;
    let [_, flags] = metadata;
    Ok(flags)
}

/// Whether a thread has a map of I/O ports that it may use (`ioperm(2)`).
pub fn has_port_permissions(tid: i32) -> bool {
    /// From `include/uapi/linux/elf.h`.
    const NT_386_IOPERM: usize = 0x201;
    let mut word = 0_u64;
    let mut iov = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size_of::<u64>() };
    let data = (&raw mut iov).cast();
    // A thread without one has no such register set.
    request("ptrace(PTRACE_GETREGSET, NT_386_IOPERM)", libc::PTRACE_GETREGSET, tid, NT_386_IOPERM, data)
        .is_ok()
}

/// Whether some of a thread's system calls are dispatched to itself (`PR_SET_SYSCALL_USER_DISPATCH`); kernels before 6.4
/// do not tell.
pub fn dispatches_syscalls(tid: i32) -> bool {
    const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4210;
    // struct ptrace_sud_config: mode, selector, offset, length.
    let mut config = [0_u64; 4];
    let call = "ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG)";
    let data = config.as_mut_ptr().cast();
    let size = size_of_val(&config);
    let told = request(call, PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, data);
    let [mode, ..] = config;
    told.is_ok() && mode != 0
}
