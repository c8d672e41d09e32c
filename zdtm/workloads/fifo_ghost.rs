//! A removed fifo connects two processes, each with an end that it opened itself.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 3000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o600))?;
    let child = cx.child(|cx| {
        let mut reader = File::open(&path)?;
        cx.post("child-ready")?;
        cx.park()?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        check_pattern(&bytes[..LENGTH], 1, "data before")?;
        check_pattern(&bytes[LENGTH..], 2, "data after")
    })?;
    let mut writer = OpenOptions::new().write(true).open(&path)?;
    cx.wait_for("child-ready")?;
    writer.write_all(&pattern(1, LENGTH))?;
    fs::remove_file(&path)?;
    cx.barrier()?;
    ensure!(!path.exists(), "the removed fifo is there again");
    writer.write_all(&pattern(2, LENGTH))?;
    drop(writer);
    child.join()
}
