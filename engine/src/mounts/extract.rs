//! Fills an empty file system from an archive, ours or one that GNU tar made for CRIU.
//!
//! The archive is hostile input: names are resolved below the root of the file system, no link is followed, and nothing that
//! is mounted is entered.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, lstat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{FchownatFlags, Gid, Uid, fchownat, linkat, symlinkat};
use tar::{EntryType, Header};

use super::below::enter_parent;
use super::members::{Members, Sparse};
use super::pax;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::sys::xattr;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// It cannot be read.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// Something that our reader does not know.
    #[error("the archive has {0}, which is not read")]
    Unknown(&'static str),
}

impl Explain for ArchiveError {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("dump the process again, or copy the whole image directory again".into())
    }
}

/// Longest header record or name that is read.
const RECORDS_MAX: u64 = 1 << 20;
/// Blocks of zeros of this size become holes.
const BLOCK: usize = 4096;

/// What comes before a member and belongs to it.
#[derive(Debug, Default)]
struct Before {
    records: Vec<pax::Record>,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Before {
    fn record(&self, key: &str) -> Option<&[u8]> {
        self.records.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_slice())
    }

    /// Where the file has data, if its map is before that.
    fn sparse<R: Read>(&self, members: &mut Members<R>) -> Result<Option<Sparse>, Problem> {
        if !self.records.iter().any(|(key, _)| key.starts_with(pax::SPARSE)) {
            return Ok(None);
        }
        let version = (self.record(pax::SPARSE_MAJOR), self.record(pax::SPARSE_MINOR));
        let size =
            self.record(pax::SPARSE_SIZE).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        match (version, size) {
            ((Some(b"1"), Some(b"0")), Some(size)) => {
                Ok(Some(Sparse { size, parts: members.map_before().map_err(damaged)? }))
            }
            _ => Err(ArchiveError::Unknown("a sparse file of an old version").into()),
        }
    }
}

/// One file, as the archive has it.
struct Member<'a> {
    header: &'a Header,
    before: &'a Before,
    path: PathBuf,
    /// Where it has data, if its holes were left out.
    sparse: Option<Sparse>,
}

/// What an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A file system that has nothing.
    Empty,
    /// One that everybody uses: what is there stays as it is, and what is missing is made, where we may.
    Filled,
}

/// Fills a file system. Changes the working directory.
pub(super) fn extract(archive: impl Read, root: &OwnedFd, place: Place) -> Result<(), Problem> {
    let decoder = MultiGzDecoder::new(BufReader::new(archive));
    let mut members = Members::new(decoder);
    let mut before = Before::default();
    // Folders get their times when everything is in them.
    let mut times: Vec<(PathBuf, TimeSpec)> = Vec::new();
    while let Some((header, map)) = members.next().map_err(damaged)? {
        let kind = header.entry_type();
        match kind {
            EntryType::XHeader => {
                let bytes = read_some(&mut members)?;
                before.records.extend(pax::parse(&bytes).ok_or_else(|| damaged("an extended header"))?);
                continue;
            }
            EntryType::GNULongName => {
                before.name = Some(without_zero(read_some(&mut members)?));
                continue;
            }
            EntryType::GNULongLink => {
                before.target = Some(without_zero(read_some(&mut members)?));
                continue;
            }
            EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let sparse = before.sparse(&mut members)?.or(map);
        let member = Member { header: &header, path: path(&header, &before)?, before: &before, sparse };
        let about = || Object::Path(Path::new("/").join(&member.path));
        if place == Place::Filled {
            if let Err(problem) = member.restore_missing(root, &mut members).about(about) {
                log::warn!("{}: it cannot be made again: {}", about(), problem.cause);
            }
            before = Before::default();
            continue;
        }
        let time = member.restore(root, &mut members).about(about).while_trying_to("make it again")?;
        if kind == EntryType::Directory {
            times.push((member.path, time));
        }
        before = Before::default();
    }
    for (path, time) in times.iter().rev() {
        let last = enter_parent(root, path)?;
        set_time(last, time).about(|| Object::Path(Path::new("/").join(path)))?;
    }
    Ok(())
}

impl Member<'_> {
    /// Makes it unless there is something of its name.
    fn restore_missing(&self, root: &OwnedFd, data: &mut impl Read) -> Result<(), Problem> {
        let last = enter_parent(root, &self.path)?;
        match lstat(last) {
            Err(Errno::ENOENT) => self.restore(root, data).map(drop),
            found => Ok(found.map(drop).map_err(SysError::of("lstat"))?),
        }
    }

    /// Makes it; the time of its last change.
    fn restore(&self, root: &OwnedFd, data: &mut impl Read) -> Result<TimeSpec, Problem> {
        let last = enter_parent(root, &self.path)?;
        self.make(root, last, data)?;
        let time = self.time()?;
        let kind = self.header.entry_type();
        if kind == EntryType::Link {
            return Ok(time);
        }
        let uid = Uid::from_raw(number(self.header.uid())?);
        let gid = Gid::from_raw(number(self.header.gid())?);
        fchownat(AT_FDCWD, last, Some(uid), Some(gid), FchownatFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(SysError::of("fchownat"))?;
        if kind != EntryType::Symlink {
            let mode = Mode::from_bits_truncate(self.mode()?);
            fchmodat(AT_FDCWD, last, mode, FchmodatFlags::FollowSymlink).map_err(SysError::of("fchmodat"))?;
        }
        for (key, value) in &self.before.records {
            let Some(name) = key.strip_prefix(pax::XATTR) else { continue };
            let name = CString::new(name).map_err(|_zero| damaged("an attribute's name"))?;
            xattr::set(last, &name, value)?;
        }
        if kind != EntryType::Directory {
            set_time(last, &time)?;
        }
        Ok(time)
    }

    fn make(&self, root: &OwnedFd, last: &Path, data: &mut impl Read) -> Result<(), Problem> {
        let private = Mode::S_IRWXU;
        let node =
            |kind, device| mknodat(AT_FDCWD, last, kind, private, device).map_err(SysError::of("mknod"));
        let is_socket = self.before.record(pax::FILE_TYPE) == Some(b"socket");
        match self.header.entry_type() {
            EntryType::Directory => match mkdirat(AT_FDCWD, last, private) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(SysError { call: "mkdir", errno }.into()),
            },
            EntryType::Regular if is_socket => node(SFlag::S_IFSOCK, 0)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => match &self.sparse {
                Some(sparse) => write_parts(last, sparse, data)?,
                None => write(last, data)?,
            },
            EntryType::Symlink => {
                let target = self.target();
                symlinkat(OsStr::from_bytes(&target), AT_FDCWD, last).map_err(SysError::of("symlink"))?;
            }
            EntryType::Link => {
                let target = relative(&self.target())?;
                let how = OpenHow::new()
                    .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
                // A link may be to a symbolic link, which the last part of the name may then be.
                let found = openat2(root, &target, how).map_err(SysError::of("openat2"));
                match found {
                    Ok(file) => linkat(&file, "", AT_FDCWD, last, AtFlags::AT_EMPTY_PATH),
                    Err(e) if e.errno == Errno::ELOOP => {
                        let here = nix::fcntl::open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                            .map_err(SysError::of("open"))?;
                        let name = enter_parent(root, &target)?;
                        linkat(AT_FDCWD, name, &here, last, AtFlags::empty())
                    }
                    Err(e) => return Err(e.into()),
                }
                .map_err(SysError::of("link"))?;
            }
            EntryType::Char => node(SFlag::S_IFCHR, self.device()?)?,
            EntryType::Block => node(SFlag::S_IFBLK, self.device()?)?,
            EntryType::Fifo => node(SFlag::S_IFIFO, 0)?,
            _ => return Err(ArchiveError::Unknown("a member of an unknown type").into()),
        }
        Ok(())
    }

    fn mode(&self) -> Result<u32, Problem> {
        Ok(self.header.mode().map_err(damaged)? & 0o7777)
    }

    fn device(&self) -> Result<u64, Problem> {
        let major = self.header.device_major().map_err(damaged)?.unwrap_or(0);
        let minor = self.header.device_minor().map_err(damaged)?.unwrap_or(0);
        Ok(makedev(major.into(), minor.into()))
    }

    fn target(&self) -> Vec<u8> {
        let long = self.before.record(pax::LINK_PATH).or(self.before.target.as_deref());
        long.map_or_else(|| until_zero(&self.header.as_old().linkname), <[u8]>::to_vec)
    }

    fn time(&self) -> Result<TimeSpec, Problem> {
        let (seconds, nanoseconds) = match self.before.record(pax::MTIME) {
            Some(text) => pax::time(text).ok_or_else(|| damaged("a time"))?,
            None => (self.header.mtime().map_err(damaged)? as i64, 0),
        };
        Ok(TimeSpec::new(seconds, nanoseconds))
    }
}

fn create(last: &Path) -> Result<File, SysError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(AT_FDCWD, last, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    file.map(File::from).map_err(SysError::of("open"))
}

/// Writes a new file whose holes were left out.
fn write_parts(last: &Path, sparse: &Sparse, data: &mut impl Read) -> Result<(), Problem> {
    let mut file = create(last)?;
    for (at, length) in &sparse.parts {
        if at.checked_add(*length).is_none_or(|end| end > sparse.size) {
            return Err(damaged("a part of a file lies behind its end"));
        }
        file.seek(SeekFrom::Start(*at)).map_err(SysError::io("lseek"))?;
        let copied = std::io::copy(&mut data.take(*length), &mut file).map_err(damaged)?;
        if copied < *length {
            return Err(damaged("a part of a file is missing"));
        }
    }
    file.set_len(sparse.size).map_err(SysError::io("ftruncate"))?;
    Ok(())
}

/// Writes a new file; blocks of zeros become holes.
fn write(last: &Path, data: &mut impl Read) -> Result<(), Problem> {
    let mut file = create(last)?;
    let mut buffer = vec![0_u8; BLOCK * 64];
    let mut size = 0_u64;
    loop {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match data.read(rest).map_err(damaged)? {
                0 => break,
                got => filled += got,
            }
        }
        if filled == 0 {
            break;
        }
        let bytes = buffer.get(..filled).unwrap_or_default();
        for (block, at) in bytes.chunks(BLOCK).zip((size..).step_by(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                file.seek(SeekFrom::Start(at)).map_err(SysError::io("lseek"))?;
                file.write_all(block).map_err(SysError::io("write"))?;
            }
        }
        size += filled as u64;
    }
    file.set_len(size).map_err(SysError::io("ftruncate"))?;
    Ok(())
}

fn set_time(last: &Path, time: &TimeSpec) -> Result<(), SysError> {
    utimensat(AT_FDCWD, last, time, time, UtimensatFlags::NoFollowSymlink).map_err(SysError::of("utimensat"))
}

/// The name of a member, from the root of the file system.
fn path(header: &Header, before: &Before) -> Result<PathBuf, Problem> {
    let long = before.record(pax::SPARSE_NAME).or(before.record(pax::PATH)).or(before.name.as_deref());
    relative(&long.map_or_else(|| until_zero(&header.as_old().name), <[u8]>::to_vec))
}

/// A name without what does not belong into one.
fn relative(name: &[u8]) -> Result<PathBuf, Problem> {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return Err(damaged("a name that leads out of it")),
        }
    }
    Ok(path)
}

fn until_zero(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn without_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

fn read_some(entry: &mut impl Read) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    entry.take(RECORDS_MAX).read_to_end(&mut bytes).map_err(damaged)?;
    Ok(bytes)
}

fn number(id: std::io::Result<u64>) -> Result<u32, Problem> {
    u32::try_from(id.map_err(damaged)?).map_err(|_too_large| damaged("an owner"))
}

fn damaged(what: impl std::fmt::Display) -> Problem {
    Problem::new(ArchiveError::Damaged(what.to_string()))
}
