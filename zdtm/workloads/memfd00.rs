//! A memory file keeps contents, holes, size, name, mode and seals; two descriptions keep their positions and access.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zdtm::workload::{Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const PAGE: usize = 4096;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut file = File::from(memfd_create("a name", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(&pattern(1, PAGE), 0)?;
    file.write_all_at(&pattern(2, PAGE), 1 << 30)?;
    file.set_len((1 << 31) + 17)?;
    file.set_permissions(fs::Permissions::from_mode(0o640))?;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    file.seek(SeekFrom::Start(100))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut reader = File::open(path)?;
    reader.seek(SeekFrom::Start(1 << 30))?;
    cx.barrier()?;
    ensure_eq!(file.stream_position()?, 100, "the first position");
    let meta = file.metadata()?;
    ensure_eq!((meta.len(), meta.mode() & 0o7777), ((1 << 31) + 17, 0o640), "size and mode");
    ensure!(meta.blocks() < 1000, "holes became contents: {} blocks", meta.blocks());
    let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS)?;
    ensure_eq!(seals, (SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW).bits(), "seals");
    let mut bytes = vec![0; PAGE];
    file.read_exact_at(&mut bytes, 0)?;
    check_pattern(&bytes, 1, "the first page")?;
    reader.read_exact(&mut bytes)?;
    check_pattern(&bytes, 2, "a page in the middle, at the second position")?;
    ensure!(reader.write_at(b"x", 0).is_err(), "the second description can write");
    file.write_all_at(b"x", 0)?;
    reader.read_exact_at(&mut bytes[..1], 0)?;
    ensure_eq!(bytes[0], b'x', "what the other description reads");
    Ok(())
}
