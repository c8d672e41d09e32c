//! AVX-512 registers, upper halves and high numbers included, and mask registers keep their values.

use std::arch::asm;

use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::spinning;

/// Eight vector registers, then five mask registers of two bytes.
const LENGTH: usize = 8 * 64 + 5 * 2;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 2, |number| {
        let before = pattern(u64::from(number), LENGTH);
        let mut after = vec![0; LENGTH];
        spin(&before, &mut after);
        check_pattern(&after, u64::from(number), "AVX-512 registers")
    })
}

fn spin(before: &[u8], after: &mut [u8]) {
    // SAFETY: the zoo entry needs AVX-512, all registers used are declared, and both slices are LENGTH bytes long.
    unsafe {
        asm!(
            "vmovups zmm0, [{before}]", "vmovups zmm7, [{before}+64]", "vmovups zmm8, [{before}+128]",
            "vmovups zmm15, [{before}+192]", "vmovups zmm16, [{before}+256]", "vmovups zmm17, [{before}+320]",
            "vmovups zmm30, [{before}+384]", "vmovups zmm31, [{before}+448]",
            "kmovw k1, [{before}+512]", "kmovw k2, [{before}+514]", "kmovw k3, [{before}+516]",
            "kmovw k6, [{before}+518]", "kmovw k7, [{before}+520]",
            "lock inc dword ptr [{started}]",
            "2: pause", "cmp dword ptr [{go}], 0", "je 2b",
            "vmovups [{after}], zmm0", "vmovups [{after}+64], zmm7", "vmovups [{after}+128], zmm8",
            "vmovups [{after}+192], zmm15", "vmovups [{after}+256], zmm16", "vmovups [{after}+320], zmm17",
            "vmovups [{after}+384], zmm30", "vmovups [{after}+448], zmm31",
            "kmovw [{after}+512], k1", "kmovw [{after}+514], k2", "kmovw [{after}+516], k3",
            "kmovw [{after}+518], k6", "kmovw [{after}+520], k7",
            "vzeroupper",
            before = in(reg) before.as_ptr(), after = in(reg) after.as_mut_ptr(),
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
            out("xmm0") _, out("xmm7") _, out("xmm8") _, out("xmm15") _,
            out("xmm16") _, out("xmm17") _, out("xmm30") _, out("xmm31") _,
            out("k1") _, out("k2") _, out("k3") _, out("k6") _, out("k7") _,
        );
    }
}
