//! Changed protections hold: forbidden accesses fault, allowed ones do not.

use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use nix::unistd::{pipe, write};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut mapping = Mapping::anonymous(3 * PAGE, READ_WRITE)?;
    mapping.bytes_mut().fill(7);
    let [none, read, both] = [0, 1, 2].map(|page| mapping.part(page * PAGE, PAGE));
    none.protect(ProtFlags::PROT_NONE)?;
    read.protect(ProtFlags::PROT_READ)?;
    cx.barrier()?;
    ensure_eq!([can_read(&none)?, can_read(&read)?, can_read(&both)?], [false, true, true], "reading");
    ensure_eq!([can_write(&none)?, can_write(&read)?, can_write(&both)?], [false, false, true], "writing");
    none.protect(READ_WRITE)?;
    ensure_eq!(none.bytes()[PAGE - 1], 7, "contents");
    Ok(())
}

/// Lets the kernel touch the memory: it reports a fault instead of a signal.
fn can_read(mapping: &Mapping) -> Result<bool, Failure> {
    let (_output, input) = pipe()?;
    // SAFETY: the slice is handed to the kernel only, which checks every access.
    let bytes = unsafe { std::slice::from_raw_parts(mapping.start.as_ptr().cast(), 1) };
    match write(&input, bytes) {
        Ok(_) => Ok(true),
        Err(Errno::EFAULT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn can_write(mapping: &Mapping) -> Result<bool, Failure> {
    let (output, input) = pipe()?;
    write(&input, b"x")?;
    // SAFETY: the slice is handed to the kernel only, which checks every access.
    let bytes = unsafe { std::slice::from_raw_parts_mut(mapping.start.as_ptr().cast(), 1) };
    match nix::unistd::read(&output, bytes) {
        Ok(_) => Ok(true),
        Err(Errno::EFAULT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
