//! Packed double arithmetic goes on without losing a step.

use std::arch::asm;

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::spinning;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    spinning::hold(cx, 2, |number| {
        let steps = [1 + number, 3];
        let mut sums = [0.0_f64; 2];
        let count = count_up(&steps.map(f64::from), &mut sums);
        ensure!(count > 0, "no step was made");
        // Whole numbers below 2^53 are exact.
        ensure_eq!(sums.map(|sum| sum as u64), steps.map(|step| u64::from(step) * count), "sums");
        Ok(())
    })
}

fn count_up(steps: &[f64; 2], sums: &mut [f64; 2]) -> u64 {
    let mut count: u64 = 0;
    // SAFETY: both registers are declared as changed, memory is the two arrays only.
    unsafe {
        asm!(
            "movupd xmm1, [{steps}]", "xorpd xmm0, xmm0",
            "lock inc dword ptr [{started}]",
            "2: addpd xmm0, xmm1", "inc {count}", "cmp dword ptr [{go}], 0", "je 2b",
            "movupd [{sums}], xmm0",
            steps = in(reg) steps.as_ptr(), sums = in(reg) sums.as_mut_ptr(), count = inout(reg) count,
            started = in(reg) spinning::started(), go = in(reg) spinning::go(),
            out("xmm0") _, out("xmm1") _,
        );
    }
    count
}
