//! The devices null, zero, full and urandom stay what they are.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let open = |name: &str| -> Result<File, Failure> {
        Ok(OpenOptions::new().read(true).write(name != "urandom").open(format!("/dev/{name}"))?)
    };
    let (mut null, mut zero, mut full, mut random) =
        (open("null")?, open("zero")?, open("full")?, open("urandom")?);
    cx.barrier()?;
    let mut bytes = [7; 64];
    ensure_eq!(null.read(&mut bytes)?, 0, "bytes from null");
    null.write_all(&bytes)?;
    zero.read_exact(&mut bytes)?;
    ensure_eq!(bytes, [0; 64], "bytes from zero");
    random.read_exact(&mut bytes)?;
    ensure!(bytes != [0; 64], "urandom gives zeros");
    let error = full.write(&bytes).err().and_then(|error| error.raw_os_error());
    ensure_eq!(error, Some(libc::ENOSPC), "writing to full");
    Ok(())
}
