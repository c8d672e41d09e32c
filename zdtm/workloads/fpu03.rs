//! Each thread keeps its own control words: rounding and exceptions of x87 and SSE.

use std::arch::asm;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::spinning;

const MXCSR: u32 = 0x1f80;
const X87: u16 = 0x037f;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 4, |number| {
        let before = (MXCSR | (number << 13) | 0x8000, X87 ^ 0x20 | (number as u16) << 10);
        let after = spin(before);
        ensure_eq!(after, before, format!("MXCSR and x87 control word of thread {number}"));
        Ok(())
    })
}

fn spin((mut mxcsr, mut x87): (u32, u16)) -> (u32, u16) {
    let (usual_mxcsr, usual_x87) = (MXCSR, X87);
    // SAFETY: no arithmetic runs with the changed control words, and the usual ones are put back.
    unsafe {
        asm!(
            "ldmxcsr [{mxcsr}]", "fldcw [{x87}]",
            "lock inc dword ptr [{started}]",
            "2: pause", "cmp dword ptr [{go}], 0", "je 2b",
            "stmxcsr [{mxcsr}]", "fnstcw [{x87}]",
            "ldmxcsr [{usual_mxcsr}]", "fldcw [{usual_x87}]",
            mxcsr = in(reg) &raw mut mxcsr, x87 = in(reg) &raw mut x87,
            usual_mxcsr = in(reg) &raw const usual_mxcsr, usual_x87 = in(reg) &raw const usual_x87,
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
        );
    }
    (mxcsr, x87)
}
