//! A memory file that was sealed against future writing can be written by the mapping that was there before, and no other.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::MapFlags;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = File::from(memfd_create("sealed", MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(PAGE as u64)?;
    let mut mapping = Mapping::file(&file, PAGE, READ_WRITE, MapFlags::MAP_SHARED)?;
    mapping.bytes_mut()[0] = 1;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE))?;
    cx.barrier()?;
    ensure_eq!(mapping.bytes()[0], 1, "contents");
    mapping.bytes_mut()[0] = 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0)?;
    ensure_eq!(byte[0], 2, "what was written through the mapping");
    ensure!(file.write_at(b"x", 0).is_err(), "the file can be written");
    let again = Mapping::file(&file, PAGE, READ_WRITE, MapFlags::MAP_SHARED);
    ensure!(again.is_err(), "the file can be mapped for writing again");
    Ok(())
}
