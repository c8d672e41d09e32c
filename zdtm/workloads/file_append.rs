//! A file opened for appending still appends, whatever others wrote meanwhile.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("log");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    file.write_all(b"one ")?;
    cx.barrier()?;
    OpenOptions::new().append(true).open(&path)?.write_all(b"two ")?;
    file.write_all(b"three")?;
    ensure_eq!(fs::read_to_string(&path)?, "one two three", "contents");
    Ok(())
}
