//! A memory file sealed against writing keeps the mappings it had: read-only shared ones, and private ones with copies.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mprotect};
use zdtm::workload::{Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const LENGTH: usize = 4 * PAGE;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = File::from(memfd_create("sealed", MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all_at(&pattern(1, LENGTH), 0)?;
    let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let shared = Mapping::file(&reader, LENGTH, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    drop(reader);
    let mut private = Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_PRIVATE)?;
    private.part(PAGE, PAGE).bytes_mut().copy_from_slice(&pattern(2, PAGE));
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE))?;

    cx.barrier()?;
    let all = pattern(1, LENGTH);
    ensure!(shared.bytes() == all, "shared contents differ");
    ensure!(private.part(0, PAGE).bytes() == &all[..PAGE], "the first page of the private mapping differs");
    check_pattern(private.part(PAGE, PAGE).bytes(), 2, "the page that was copied before")?;
    ensure!(private.part(2 * PAGE, 2 * PAGE).bytes() == &all[2 * PAGE..], "the last private pages differ");
    private.bytes_mut()[0] = !all[0];
    ensure_eq!(shared.bytes()[0], all[0], "what is shared, after a write to the private mapping");
    let written = file.write_at(b"x", 0).map_err(|error| error.raw_os_error());
    ensure_eq!(written, Err(Some(Errno::EPERM as i32)), "writing to the file");
    // SAFETY: it is expected to fail; where it does not, nobody minds a writable mapping.
    let writable = unsafe { mprotect(shared.start, LENGTH, READ_WRITE) };
    ensure_eq!(writable, Err(Errno::EACCES), "making the shared mapping writable");
    let again = Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_SHARED);
    ensure!(again.is_err(), "the file can be mapped for writing");
    Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_PRIVATE)?;
    Ok(())
}
