//! All sixteen SSE registers keep their values in two spinning threads.

use std::arch::asm;

use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::spinning;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 2, |number| {
        let before = pattern(u64::from(number), 256);
        let mut after = vec![0; 256];
        spin(&before, &mut after);
        check_pattern(&after, u64::from(number), "SSE registers")
    })
}

fn spin(before: &[u8], after: &mut [u8]) {
    // SAFETY: all registers are declared as changed, and both slices are 256 bytes long.
    unsafe {
        asm!(
            "movups xmm0, [{before}]", "movups xmm1, [{before}+16]", "movups xmm2, [{before}+32]",
            "movups xmm3, [{before}+48]", "movups xmm4, [{before}+64]", "movups xmm5, [{before}+80]",
            "movups xmm6, [{before}+96]", "movups xmm7, [{before}+112]", "movups xmm8, [{before}+128]",
            "movups xmm9, [{before}+144]", "movups xmm10, [{before}+160]", "movups xmm11, [{before}+176]",
            "movups xmm12, [{before}+192]", "movups xmm13, [{before}+208]", "movups xmm14, [{before}+224]",
            "movups xmm15, [{before}+240]",
            "lock inc dword ptr [{started}]",
            "2: pause", "cmp dword ptr [{go}], 0", "je 2b",
            "movups [{after}], xmm0", "movups [{after}+16], xmm1", "movups [{after}+32], xmm2",
            "movups [{after}+48], xmm3", "movups [{after}+64], xmm4", "movups [{after}+80], xmm5",
            "movups [{after}+96], xmm6", "movups [{after}+112], xmm7", "movups [{after}+128], xmm8",
            "movups [{after}+144], xmm9", "movups [{after}+160], xmm10", "movups [{after}+176], xmm11",
            "movups [{after}+192], xmm12", "movups [{after}+208], xmm13", "movups [{after}+224], xmm14",
            "movups [{after}+240], xmm15",
            before = in(reg) before.as_ptr(), after = in(reg) after.as_mut_ptr(),
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
}
