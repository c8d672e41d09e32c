//! A removed file that two processes opened, each for itself, is one file for both.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let length = match cx.args().first() {
        Some(length) => length.parse()?,
        None => 10_000,
    };
    let path = cx.path("file");
    fs::write(&path, pattern(1, length))?;
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    let child = cx.child(|cx| {
        let file = open()?;
        cx.post("child-ready")?;
        cx.park()?;
        cx.wait_for("written")?;
        ensure_eq!(file.metadata()?.nlink(), 0, "links in the child");
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        check_pattern(&bytes, 2, "what the parent wrote")?;
        file.write_all_at(b"child", 0)?;
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    let file = open()?;
    fs::remove_file(&path)?;
    cx.barrier()?;
    if path.exists() {
        return Err(Failure::new("the removed file is there again"));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    check_pattern(&bytes, 1, "contents")?;
    file.write_all_at(&pattern(2, length), 0)?;
    cx.post("written")?;
    child.join()?;
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0)?;
    ensure_eq!(&bytes, b"child", "what the child wrote");
    Ok(())
}
