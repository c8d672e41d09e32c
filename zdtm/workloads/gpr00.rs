//! General registers and the direction flag keep their values in two spinning threads.

use std::arch::asm;

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::spinning;

const DIRECTION: u64 = 1 << 10;

/// rax, rbx, rdx, rbp, r8 to r15; rdi and rsi address the flags and the values; out also holds the flags.
#[repr(C)]
struct Values {
    before: [u64; 12],
    after: [u64; 13],
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 2, |number| {
        let before = std::array::from_fn(|index| {
            0x0123_4567_89ab_cdef_u64.rotate_left(index as u32 * 5) ^ u64::from(number)
        });
        let mut values = Values { before, after: [0; 13] };
        spin(&mut values);
        ensure_eq!(values.after[..12], before[..], "registers");
        ensure!(values.after[12] & DIRECTION != 0, "the direction flag is lost: {:#x}", values.after[12]);
        Ok(())
    })
}

fn spin(values: &mut Values) {
    // SAFETY: all changed registers are declared or saved, the direction flag is cleared again, memory is `values` only.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "mov rax, [rsi]", "mov rbx, [rsi+8]", "mov rdx, [rsi+16]", "mov rbp, [rsi+24]",
            "mov r8, [rsi+32]", "mov r9, [rsi+40]", "mov r10, [rsi+48]", "mov r11, [rsi+56]",
            "mov r12, [rsi+64]", "mov r13, [rsi+72]", "mov r14, [rsi+80]", "mov r15, [rsi+88]",
            "std",
            "lock inc dword ptr [rcx]",
            "2: pause", "cmp dword ptr [rdi], 0", "je 2b",
            "mov [rsi+96], rax", "mov [rsi+104], rbx", "mov [rsi+112], rdx", "mov [rsi+120], rbp",
            "mov [rsi+128], r8", "mov [rsi+136], r9", "mov [rsi+144], r10", "mov [rsi+152], r11",
            "mov [rsi+160], r12", "mov [rsi+168], r13", "mov [rsi+176], r14", "mov [rsi+184], r15",
            "pushfq", "pop qword ptr [rsi+192]",
            "cld",
            "pop rbp", "pop rbx",
            in("rcx") spinning::started(), in("rdi") spinning::go(), in("rsi") &raw mut *values,
            out("rax") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
}
