//! Memory files keep name, size, seals; of several descriptors each keeps its position, access and whom it shares with.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const SIZE: usize = 12_345;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let sealed = [
        SealFlag::empty(),
        SealFlag::F_SEAL_SEAL,
        SealFlag::F_SEAL_SHRINK,
        SealFlag::F_SEAL_GROW,
        SealFlag::F_SEAL_WRITE,
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL,
    ];
    let files = sealed.iter().map(|seals| memory_file(*seals)).collect::<Result<Vec<_>, _>>()?;
    let mut unsealable = File::from(memfd_create("not to be sealed", MFdFlags::empty())?);
    unsealable.write_all(&pattern(1, SIZE))?;
    let mut twin = unsealable.try_clone()?;
    let path = link(&unsealable);
    let mut reader = File::open(&path)?;
    reader.seek(SeekFrom::Start(77))?;
    let mut appender = OpenOptions::new().write(true).custom_flags(libc::O_APPEND).open(&path)?;
    let name = fs::read_link(&path)?;

    cx.barrier()?;
    for (seals, file) in sealed.iter().zip(&files) {
        verify(*seals, file).map_err(|failure| Failure::new(format!("{seals:?}: {failure}")))?;
    }
    ensure_eq!(fs::read_link(link(&reader))?, name, "name");
    ensure_eq!(seals_of(&reader)?, SealFlag::F_SEAL_SEAL, "seals of a file that cannot be sealed");
    ensure_eq!(unsealable.stream_position()?, SIZE as u64, "position of the first descriptor");
    twin.seek(SeekFrom::Start(5))?;
    ensure_eq!(unsealable.stream_position()?, 5, "position that two descriptors share");
    ensure_eq!(reader.stream_position()?, 77, "position of the read-only descriptor");
    ensure!(reader.write(b"x").is_err(), "the read-only descriptor can write");
    appender.write_all(b"appended")?;
    let mut bytes = Vec::new();
    reader.rewind()?;
    reader.read_to_end(&mut bytes)?;
    check_pattern(&bytes[..SIZE], 1, "contents")?;
    ensure_eq!(&bytes[SIZE..], b"appended", "what was appended, read by the other descriptor");
    Ok(())
}

fn memory_file(seals: SealFlag) -> Result<File, Failure> {
    let mut file = File::from(memfd_create("to be sealed", MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(&pattern(2, SIZE))?;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

fn verify(seals: SealFlag, mut file: &File) -> Verdict {
    ensure_eq!(seals_of(file)?, seals, "seals");
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    ensure_eq!(bytes.len(), SIZE, "size");
    check_pattern(&bytes, 2, "contents")?;
    file.rewind()?;
    allowed(!seals.contains(SealFlag::F_SEAL_WRITE), file.write(b"x"), "writing")?;
    allowed(!seals.contains(SealFlag::F_SEAL_GROW), file.set_len(SIZE as u64 + 1), "growing")?;
    let size = file.metadata()?.len() - 1;
    allowed(!seals.contains(SealFlag::F_SEAL_SHRINK), file.set_len(size), "shrinking")?;
    let more = fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW));
    allowed(!seals.contains(SealFlag::F_SEAL_SEAL), more.map_err(Into::into), "sealing")
}

fn allowed<T>(expected: bool, found: std::io::Result<T>, what: &str) -> Verdict {
    match found {
        Ok(_) => ensure!(expected, "{what} is possible"),
        Err(error) => {
            ensure_eq!(error.raw_os_error(), Some(Errno::EPERM as i32), what);
            ensure!(!expected, "{what} is not possible");
        }
    }
    Ok(())
}

fn seals_of(file: &File) -> Result<SealFlag, Failure> {
    Ok(SealFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GET_SEALS)?))
}

fn link(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
