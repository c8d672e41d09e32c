//! A removed file with holes keeps its contents, and its holes.
//!
//! Arguments: the file's size, then offset and length of each piece of data; `xN` behind a piece repeats it N times, each
//! two lengths behind the one before.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::unistd::{Whence, lseek};
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let numbers: Vec<u64> =
        cx.args().iter().filter_map(|arg| arg.trim_start_matches('x').parse().ok()).collect();
    let (size, pieces) = numbers.split_first().ok_or_else(|| Failure::new("no size"))?;
    let pieces: Vec<(u64, u64)> = match pieces {
        [at, length, times] => (0..*times).map(|n| (at + n * 2 * length, *length)).collect(),
        pieces => pieces.as_chunks::<2>().0.iter().map(|[at, length]| (*at, *length)).collect(),
    };
    let path = cx.path("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(*size)?;
    for (at, length) in &pieces {
        file.write_all_at(&pattern(*at, *length as usize), *at)?;
    }
    file.sync_all()?;
    fs::remove_file(&path)?;
    let (before, runs) = (file.metadata()?, data(&file)?);
    cx.barrier()?;
    let after = file.metadata()?;
    ensure_eq!((after.len(), after.nlink()), (*size, 0), "size and links");
    ensure!(after.blocks() <= before.blocks() + 64, "{} blocks, were {}", after.blocks(), before.blocks());
    ensure_eq!(data(&file)?, runs, "where data is");
    for (at, length) in &pieces {
        let mut bytes = vec![0; *length as usize];
        file.read_exact_at(&mut bytes, *at)?;
        check_pattern(&bytes, *at, "data")?;
    }
    file.write_all(b"still writable")?;
    Ok(())
}

/// Start and end of each run of data.
fn data(file: &File) -> Result<Vec<(i64, i64)>, Failure> {
    let mut runs = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(file, at, Whence::SeekData) {
        at = lseek(file, start, Whence::SeekHole)?;
        runs.push((start, at));
    }
    lseek(file, 0, Whence::SeekSet)?;
    Ok(runs)
}
