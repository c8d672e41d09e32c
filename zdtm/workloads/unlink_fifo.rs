//! A removed fifo keeps its data; with `wronly` it is open for writing alone, and nobody reads.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const LENGTH: usize = 5000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o640))?;
    let both = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
    let write_only = cx.args().iter().any(|arg| arg == "wronly");
    let mut reader = (!write_only).then_some(both);
    if !write_only {
        writer.write_all(&pattern(1, LENGTH))?;
    }
    fs::remove_file(&path)?;
    let before = writer.metadata()?.mode();
    cx.barrier()?;
    ensure!(!path.exists(), "the removed fifo is there again");
    let after = writer.metadata()?;
    ensure!(after.file_type().is_fifo() && after.nlink() == 0, "it is no removed fifo");
    ensure_eq!(after.mode(), before, "mode");
    let Some(reader) = &mut reader else {
        ensure!(writer.write_all(b"x").is_err(), "somebody reads");
        return Ok(());
    };
    writer.write_all(&pattern(2, LENGTH))?;
    for seed in [1, 2] {
        let mut bytes = vec![0; LENGTH];
        reader.read_exact(&mut bytes)?;
        check_pattern(&bytes, seed, "data")?;
    }
    Ok(())
}
