//! A process that never rests goes on counting where it was.

use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        cx.post("child-ready")?;
        let mut state = 1_u64;
        let mut steps = 0_u64;
        while !cx.passed() {
            for _ in 0..100_000 {
                state = std::hint::black_box(step(state));
                steps += 1;
            }
        }
        let mut expected = 1;
        for _ in 0..steps {
            expected = std::hint::black_box(step(expected));
        }
        ensure!(state == expected, "after {steps} steps: {state} instead of {expected}");
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    child.join()
}

fn step(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)
}
