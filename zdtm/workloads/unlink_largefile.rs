//! Removed files with data and positions far beyond four gigabytes, as many as the argument says.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const FAR: u64 = (5 << 30) + 123;
const LENGTH: usize = 70_000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let count: u64 = cx.args().first().map_or(Ok(1), |count| count.parse())?;
    let mut files = Vec::new();
    for number in 0..count {
        let path = cx.path(&format!("file{number}"));
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.seek(SeekFrom::Start(FAR + number))?;
        file.write_all(&pattern(number, LENGTH))?;
        fs::remove_file(&path)?;
        files.push(file);
    }
    cx.barrier()?;
    for (file, number) in files.iter_mut().zip(0..) {
        let end = FAR + number + LENGTH as u64;
        ensure_eq!((file.stream_position()?, file.metadata()?.len()), (end, end), "position and size");
        file.seek(SeekFrom::Start(FAR + number))?;
        let mut bytes = vec![0; LENGTH];
        file.read_exact(&mut bytes)?;
        check_pattern(&bytes, number, "contents")?;
    }
    Ok(())
}
