//! The x87 register stack keeps its values in two spinning threads.

use std::arch::asm;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::spinning;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 2, |number| {
        let before: [f64; 8] =
            std::array::from_fn(|index| 1.5 + f64::from(number) * 100.0 + f64::from(index as u32));
        let mut after = [0.0_f64; 8];
        spin(&before, &mut after);
        ensure_eq!(after.map(f64::to_bits), before.map(f64::to_bits), "x87 registers");
        Ok(())
    })
}

fn spin(before: &[f64; 8], after: &mut [f64; 8]) {
    // SAFETY: the stack is empty before and after, all of it is declared as changed, memory is the two arrays only.
    unsafe {
        asm!(
            "fld qword ptr [{before}+56]", "fld qword ptr [{before}+48]",
            "fld qword ptr [{before}+40]", "fld qword ptr [{before}+32]",
            "fld qword ptr [{before}+24]", "fld qword ptr [{before}+16]",
            "fld qword ptr [{before}+8]", "fld qword ptr [{before}]",
            "lock inc dword ptr [{started}]",
            "2: pause", "cmp dword ptr [{go}], 0", "je 2b",
            "fstp qword ptr [{after}]", "fstp qword ptr [{after}+8]",
            "fstp qword ptr [{after}+16]", "fstp qword ptr [{after}+24]",
            "fstp qword ptr [{after}+32]", "fstp qword ptr [{after}+40]",
            "fstp qword ptr [{after}+48]", "fstp qword ptr [{after}+56]",
            before = in(reg) before.as_ptr(), after = in(reg) after.as_mut_ptr(),
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
}
