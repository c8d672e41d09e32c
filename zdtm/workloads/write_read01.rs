//! Private memory keeps what was read into it from a file that changes afterwards.

use std::fs;

use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 1 << 20;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, pattern(1, LENGTH))?;
    let bytes = fs::read(&path)?;
    fs::write(&path, pattern(2, LENGTH))?;
    cx.barrier()?;
    check_pattern(&bytes, 1, "memory")?;
    check_pattern(&fs::read(&path)?, 2, "file")
}
