//! A description shared by two descriptors and two processes has one position; another one of the same file its own.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, "abcdefghij")?;
    let mut first = File::open(&path)?;
    let mut second = first.try_clone()?;
    let mut apart = File::open(&path)?;
    let mut for_child = first.try_clone()?;
    let child = cx.child(|cx| {
        cx.post("child-ready")?;
        cx.park()?;
        cx.wait_for("read-two")?;
        let mut bytes = [0; 3];
        for_child.read_exact(&mut bytes)?;
        ensure_eq!(bytes, *b"cde", "the child's part");
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    let mut two = [0; 2];
    first.read_exact(&mut two)?;
    ensure_eq!(two, *b"ab", "the first part");
    cx.post("read-two")?;
    child.join()?;
    second.read_exact(&mut two)?;
    ensure_eq!(two, *b"fg", "the part after the child's");
    ensure_eq!(apart.stream_position()?, 0, "position of the other description");
    apart.read_exact(&mut two)?;
    ensure_eq!(two, *b"ab", "the other description's part");
    Ok(())
}
