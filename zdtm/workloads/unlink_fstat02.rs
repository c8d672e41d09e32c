//! Removed files whose name others have by now keep their contents, and the others are left alone.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};

const LENGTH: usize = 5000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let make = |seed: u64| -> Result<File, Failure> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.write_all_at(&pattern(seed, LENGTH), 0)?;
        Ok(file)
    };
    let first = make(1)?;
    fs::remove_file(&path)?;
    let second = make(2)?;
    // The third takes the second's name by rename.
    fs::write(cx.path("new"), "third")?;
    fs::rename(cx.path("new"), &path)?;
    let third = fs::metadata(&path)?;
    cx.barrier()?;
    for (file, seed) in [(&first, 1), (&second, 2)] {
        ensure_eq!(file.metadata()?.nlink(), 0, "links");
        let mut bytes = vec![0; LENGTH];
        file.read_exact_at(&mut bytes, 0)?;
        check_pattern(&bytes, seed, "contents")?;
    }
    let facts = |data: &fs::Metadata| (data.ino(), data.len(), data.mtime_nsec(), data.nlink());
    ensure_eq!(facts(&fs::metadata(&path)?), facts(&third), "the file that has the name");
    ensure_eq!(fs::read(&path)?, b"third", "its contents");
    ensure_eq!(
        fs::read_dir(cx.path(""))?
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("file"))
            .count(),
        1,
        "files of that name"
    );
    Ok(())
}
