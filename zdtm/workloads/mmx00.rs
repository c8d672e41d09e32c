//! MMX registers keep their values in two spinning threads.

use std::arch::asm;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::spinning;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 2, |number| {
        let before: [u64; 8] =
            std::array::from_fn(|index| 0x0101_0203_0508_0d15 * (index as u64 + 3) + u64::from(number));
        let mut after = [0; 8];
        spin(&before, &mut after);
        ensure_eq!(after, before, "MMX registers");
        Ok(())
    })
}

fn spin(before: &[u64; 8], after: &mut [u64; 8]) {
    // SAFETY: the x87 state is emptied at the end, all MMX registers are declared, memory is the two arrays only.
    unsafe {
        asm!(
            "movq mm0, [{before}]", "movq mm1, [{before}+8]", "movq mm2, [{before}+16]", "movq mm3, [{before}+24]",
            "movq mm4, [{before}+32]", "movq mm5, [{before}+40]", "movq mm6, [{before}+48]", "movq mm7, [{before}+56]",
            "lock inc dword ptr [{started}]",
            "2: pause", "cmp dword ptr [{go}], 0", "je 2b",
            "movq [{after}], mm0", "movq [{after}+8], mm1", "movq [{after}+16], mm2", "movq [{after}+24], mm3",
            "movq [{after}+32], mm4", "movq [{after}+40], mm5", "movq [{after}+48], mm6", "movq [{after}+56], mm7",
            "emms",
            before = in(reg) before.as_ptr(), after = in(reg) after.as_mut_ptr(),
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
            out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
            out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
}
