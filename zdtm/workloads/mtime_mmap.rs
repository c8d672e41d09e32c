//! Writing through a shared file mapping reaches the file and its time of modification.

use std::fs::{self, OpenOptions};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, [0; PAGE])?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut mapping = Mapping::file(&file, PAGE, READ_WRITE, MapFlags::MAP_SHARED)?;
    mapping.bytes_mut()[0] = b'a';
    // A page that is clean again faults on the next write, which is when the kernel sets the time.
    sync(&mapping)?;
    let past = SystemTime::now() - Duration::from_hours(1);
    file.set_modified(past)?;
    drop(file);
    cx.barrier()?;
    ensure!(fs::metadata(&path)?.modified()? <= past, "dump or restore touched the file");
    mapping.bytes_mut()[1] = b'b';
    sync(&mapping)?;
    ensure!(fs::metadata(&path)?.modified()? > past, "the time of modification is old");
    ensure_eq!(fs::read(&path)?[..2], *b"ab", "contents of the file");
    Ok(())
}

fn sync(mapping: &Mapping) -> Verdict {
    // SAFETY: the range is mapped.
    Errno::result(unsafe { libc::msync(mapping.start.as_ptr(), mapping.length, libc::MS_SYNC) })?;
    Ok(())
}
