//! The one way into the kernel.

/// Makes system call `number`; the result is the kernel's, errors as small negative numbers.
///
/// # Safety
/// The call must not break what the caller relies on: memory it owns, its stack, its descriptors.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn raw(number: u64, args: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    let result;
    // SAFETY: the x86-64 system call convention clobbers rax, rcx and r11 only; what the call does is the caller's.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as i64 => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes system call `number`, a `clone3` with the arguments at `first`, for a child that shares this memory and this
/// stack; the child touches neither, makes the call again with the arguments at `second`, and ends, as that child does.
///
/// # Safety
/// The arguments must be as they are told here, and `size` their size.
#[cfg(target_arch = "x86_64")]
pub unsafe fn clone_twice(number: u64, first: u64, size: u64, second: u64) -> i64 {
    let result;
    // SAFETY: whoever gets 0 uses registers only, and never leaves; for the others this is one system call.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, rdx",
            "mov rax, r8",
            "syscall",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "2:",
            exit = const 60,
            inlateout("rax") number as i64 => result,
            in("rdi") first, in("rsi") size, in("rdx") second, in("r8") number,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Whether a system call's result says that it failed (`-4095..=-1`, `include/linux/err.h`).
pub const fn failed(result: i64) -> bool {
    result < 0 && result >= -4095
}
