//! Two processes keep the two ends of a fifo, each opened for one direction.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 200_000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o600))?;
    let child = cx.child(|cx| {
        let mut input = OpenOptions::new().write(true).open(&path)?;
        input.write_all(&pattern(1, 100))?;
        cx.post("child-ready")?;
        cx.park()?;
        Ok(input.write_all(&pattern(2, LENGTH))?)
    })?;
    let mut output = OpenOptions::new().read(true).open(&path)?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    let mut first = vec![0; 100];
    output.read_exact(&mut first)?;
    check_pattern(&first, 1, "data before")?;
    let mut rest = Vec::new();
    output.read_to_end(&mut rest)?;
    check_pattern(&rest, 2, "data after")?;
    zdtm::ensure_eq!(rest.len(), LENGTH, "length of the data after");
    child.join()
}
