//! Positions are kept: in the middle, at the end, and far behind it.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, pattern};

const LENGTH: usize = 5000;
const FAR: u64 = 1 << 40;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    std::fs::write(&path, pattern(1, LENGTH))?;
    let mut files = Vec::new();
    for position in [0, 1234, LENGTH as u64, FAR] {
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.seek(SeekFrom::Start(position))?;
        files.push((file, position));
    }
    cx.barrier()?;
    for (file, position) in &mut files {
        ensure_eq!(file.stream_position()?, *position, "position");
    }
    let mut rest = Vec::new();
    files[1].0.read_to_end(&mut rest)?;
    ensure_eq!(rest, pattern(1, LENGTH)[1234..], "the rest of the file");
    files[2].0.write_all(b"more")?;
    ensure_eq!(std::fs::metadata(&path)?.len(), LENGTH as u64 + 4, "length after a write at the end");
    Ok(())
}
