//! The stack keeps its contents and still grows by itself.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 16 * 1024;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut local = [0_u8; LENGTH];
    local.copy_from_slice(&pattern(1, LENGTH));
    cx.barrier()?;
    check_pattern(std::hint::black_box(&local), 1, "contents")?;
    ensure_eq!(deep(500), 500 * 501 / 2, "sum of a deep recursion");
    Ok(())
}

/// Uses at least 8 KiB of stack for each level, 4 MiB in all.
#[inline(never)]
fn deep(level: u64) -> u64 {
    let frame = std::hint::black_box([level; 1024]);
    if level == 0 { 0 } else { deep(level - 1) + std::hint::black_box(&frame)[1023] }
}
