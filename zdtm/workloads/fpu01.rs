//! All sixteen AVX registers keep their values in two spinning threads.

use std::arch::asm;

use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::spinning;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 2, |number| {
        let before = pattern(u64::from(number), 512);
        let mut after = vec![0; 512];
        spin(&before, &mut after);
        check_pattern(&after, u64::from(number), "AVX registers")
    })
}

fn spin(before: &[u8], after: &mut [u8]) {
    // SAFETY: the zoo entry needs AVX, all registers are declared as changed, and both slices are 512 bytes long.
    unsafe {
        asm!(
            "vmovups ymm0, [{before}]", "vmovups ymm1, [{before}+32]", "vmovups ymm2, [{before}+64]",
            "vmovups ymm3, [{before}+96]", "vmovups ymm4, [{before}+128]", "vmovups ymm5, [{before}+160]",
            "vmovups ymm6, [{before}+192]", "vmovups ymm7, [{before}+224]", "vmovups ymm8, [{before}+256]",
            "vmovups ymm9, [{before}+288]", "vmovups ymm10, [{before}+320]", "vmovups ymm11, [{before}+352]",
            "vmovups ymm12, [{before}+384]", "vmovups ymm13, [{before}+416]", "vmovups ymm14, [{before}+448]",
            "vmovups ymm15, [{before}+480]",
            "lock inc dword ptr [{started}]",
            "2: pause", "cmp dword ptr [{go}], 0", "je 2b",
            "vmovups [{after}], ymm0", "vmovups [{after}+32], ymm1", "vmovups [{after}+64], ymm2",
            "vmovups [{after}+96], ymm3", "vmovups [{after}+128], ymm4", "vmovups [{after}+160], ymm5",
            "vmovups [{after}+192], ymm6", "vmovups [{after}+224], ymm7", "vmovups [{after}+256], ymm8",
            "vmovups [{after}+288], ymm9", "vmovups [{after}+320], ymm10", "vmovups [{after}+352], ymm11",
            "vmovups [{after}+384], ymm12", "vmovups [{after}+416], ymm13", "vmovups [{after}+448], ymm14",
            "vmovups [{after}+480], ymm15",
            "vzeroupper",
            before = in(reg) before.as_ptr(), after = in(reg) after.as_mut_ptr(),
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
}
