//! Whether a file is what it was: its mode, its size and, for programs and libraries, its build id.
//!
//! All of it is looked at before anything is created. Files that grow by themselves are an exception: what somebody of the
//! tree has open for appending has no size in the image, since a log that grew or was rotated meanwhile is no other file
//! to who writes it.

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use proto::messages::RegFileEntry;

use super::regular::RegularRefusal;
use crate::error::{Problem, SysError};
use crate::options::{FileOptions, Validation};

/// A difference between a file and what its image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Its type or permissions.
    Mode {
        /// When it was dumped.
        was: u32,
        /// Now.
        is: u32,
    },
    /// Its size in bytes.
    Size {
        /// When it was dumped.
        was: u64,
        /// Now.
        is: u64,
    },
    /// Its build id.
    BuildId {
        /// When it was dumped.
        was: String,
        /// Now.
        is: String,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mode { was, is } => write!(f, "it has mode {is:o} and had {was:o}"),
            Self::Size { was, is } => write!(f, "it has {is} bytes and had {was}"),
            Self::BuildId { was, is } => write!(f, "it has build id {is} and had {was}"),
        }
    }
}

/// All differences between a file, which its name leads to, and its image.
pub(super) fn check(
    options: &FileOptions,
    path: &Path,
    stat: &libc::stat,
    image: &RegFileEntry,
) -> Result<(), Problem> {
    let mut found = Vec::new();
    let compared = if options.skip_rwx_check { !0o777 } else { !0 };
    if let Some(was) = image.mode
        && (was ^ stat.st_mode) & compared != 0
    {
        found.push(Difference::Mode { was, is: stat.st_mode });
    }
    let appends = image.flags & libc::O_APPEND as u32 != 0;
    if let Some(was) = image.size.filter(|_| !appends)
        && was != stat.st_size as u64
    {
        found.push(Difference::Size { was, is: stat.st_size as u64 });
    }
    if options.validation == Validation::BuildId && !image.build_id.is_empty() {
        let is = open(path)?.map(build_id).unwrap_or_default();
        if is != image.build_id {
            found.push(Difference::BuildId { was: hex(&image.build_id), is: hex(&is) });
        }
    }
    if found.is_empty() { Ok(()) } else { Err(Problem::new(RegularRefusal::Changed(found))) }
}

fn open(path: &Path) -> Result<Option<OwnedFd>, SysError> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOATIME;
    match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        // Somebody has a lease on it, or it is not ours.
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EPERM) => Ok(None),
        Err(errno) => Err(SysError { call: "open", errno }),
    }
}

fn hex(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    let text = bytes.fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    if text.is_empty() { "none".to_owned() } else { text }
}

/// The build id of the file that a link of `/proc` leads to; nothing if it is no program.
pub(super) fn build_id_of(reach: &str) -> Vec<u32> {
    open(Path::new(reach)).ok().flatten().map(build_id).unwrap_or_default()
}

/// From elf(5).
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
/// Program headers that are looked at, and bytes of a segment of notes.
const MOST_HEADERS: u64 = 64;
const MOST_NOTES: u64 = 64 * 1024;

/// The build id of a file that can be read as words, in the byte order of the file; nothing where there is none or the
/// file is no 64-bit ELF file.
pub(super) fn build_id(file: impl AsFd) -> Vec<u32> {
    let file = Beginning::read(file);
    let Some(header) = file.at(0, 64).filter(|header| header.starts_with(b"\x7fELF\x02\x01")) else {
        return Vec::new();
    };
    let table = number::<8>(&header, 32);
    let (size, count) = (number::<2>(&header, 54), number::<2>(&header, 56));
    (0..count.min(MOST_HEADERS))
        .find_map(|n| note_segment(&file, table.checked_add(n * size)?))
        .unwrap_or_default()
}

/// The build id in one segment, if it is one of notes.
fn note_segment<F: AsFd>(file: &Beginning<F>, at: u64) -> Option<Vec<u32>> {
    let header = file.at(at, 56)?;
    if number::<4>(&header, 0) != u64::from(PT_NOTE) {
        return None;
    }
    let notes = file.at(number::<8>(&header, 8), number::<8>(&header, 32).min(MOST_NOTES) as usize)?;
    let mut rest = &*notes;
    loop {
        let (sizes, after) = rest.split_at_checked(12)?;
        let (name_size, size) = (number::<4>(sizes, 0) as usize, number::<4>(sizes, 4) as usize);
        let (name, after) = after.split_at_checked(name_size.next_multiple_of(4))?;
        let value = after.get(..size)?;
        if number::<4>(sizes, 8) == u64::from(NT_GNU_BUILD_ID) && name.starts_with(b"GNU\0") {
            let words = value.chunks(4).map(|chunk| number::<4>(chunk, 0) as u32);
            return Some(words.collect());
        }
        rest = after.get(size.next_multiple_of(4)..)?;
    }
}

/// A file whose first page is read at once: linkers put headers and notes there.
struct Beginning<F> {
    file: F,
    page: Vec<u8>,
}

impl<F: AsFd> Beginning<F> {
    fn read(file: F) -> Self {
        let mut page = vec![0; 4096];
        let length = pread(&file, &mut page, 0).unwrap_or(0);
        page.truncate(length);
        Self { file, page }
    }

    /// Some bytes of it; none where it ends before.
    fn at(&self, at: u64, length: usize) -> Option<Cow<'_, [u8]>> {
        let known = usize::try_from(at).ok().and_then(|at| self.page.get(at..)?.get(..length));
        if let Some(known) = known {
            return Some(Cow::Borrowed(known));
        }
        let mut bytes = vec![0; length];
        read_at(&self.file, &mut bytes, at)?;
        Some(Cow::Owned(bytes))
    }
}

/// Fills a buffer from a place in a file; none where the file ends before.
fn read_at(file: impl AsFd, buffer: &mut [u8], at: u64) -> Option<()> {
    let wanted = buffer.len();
    (pread(file, buffer, i64::try_from(at).ok()?).ok()? == wanted).then_some(())
}

/// A little-endian number of `N` bytes; what is missing is zero.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).unwrap_or_default().iter().take(N);
    bytes.enumerate().fold(0, |number, (n, byte)| number | u64::from(*byte) << (8 * n))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// An ELF file with one segment of notes.
    fn elf(notes: &[u8]) -> File {
        let mut bytes = vec![0_u8; 120];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 4;
        bytes[72] = 120;
        bytes[96] = notes.len() as u8;
        bytes.extend_from_slice(notes);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn build_ids_are_found() {
        let other = b"\x04\0\0\0\x02\0\0\0\x01\0\0\0GNU\0ab\0\0";
        let id = b"\x04\0\0\0\x08\0\0\0\x03\0\0\0GNU\0\x01\x02\x03\x04\xff\0\0\0";
        let both = [other.as_slice(), id.as_slice()].concat();
        assert_eq!(build_id(elf(&both)), [0x0403_0201, 0xff]);
        assert_eq!(hex(&build_id(elf(&both))), "01020304ff000000");
        assert_eq!(build_id(elf(other)), [0; 0]);
        assert_eq!(build_id(elf(&both[..30])), [0; 0]);
        assert_eq!(build_id(elf(b"\xff\xff\xff\xff\xff\xff\xff\xff\x03\0\0\0")), [0; 0]);
        assert_eq!(build_id(tempfile::tempfile().unwrap()), [0; 0]);
    }
}
