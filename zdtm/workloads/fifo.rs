//! A fifo that is open for reading and writing keeps its data.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 5000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o600))?;
    let mut fifo = OpenOptions::new().read(true).write(true).open(&path)?;
    fifo.write_all(&pattern(1, LENGTH))?;
    cx.barrier()?;
    let mut bytes = vec![0; LENGTH];
    fifo.read_exact(&mut bytes)?;
    check_pattern(&bytes, 1, "data before")?;
    OpenOptions::new().write(true).open(&path)?.write_all(&pattern(2, LENGTH))?;
    fifo.read_exact(&mut bytes)?;
    check_pattern(&bytes, 2, "data after")?;
    ensure!(std::fs::metadata(&path)?.file_type().is_fifo(), "no longer a fifo");
    Ok(())
}
