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

/// Whether a system call's result says that it failed (`-4095..=-1`, `include/linux/err.h`).
pub const fn failed(result: i64) -> bool {
    result < 0 && result >= -4095
}
