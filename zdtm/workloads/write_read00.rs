//! What was written to a file before is read after, through the same descriptor.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, Write as _};

use zdtm::ensure;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 100_000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(&pattern(1, LENGTH))?;
    cx.barrier()?;
    file.write_all(&pattern(2, LENGTH))?;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    ensure!(bytes.len() == 2 * LENGTH, "{} bytes instead of {}", bytes.len(), 2 * LENGTH);
    check_pattern(&bytes[..LENGTH], 1, "written before")?;
    check_pattern(&bytes[LENGTH..], 2, "written after")
}
