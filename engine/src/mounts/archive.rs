//! The contents of a file system as a compressed tar archive: everything that the kernel keeps of a file in memory.
//!
//! Owners are as the calling process sees them: in a user namespace, they are its own. Names in the archive begin at the root
//! of the file system, also where only a part of it can be seen.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{chdir, fchdir};
use tar::{Builder, EntryType, Header};

use super::{below, pax};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::sys::xattr;

/// Names that fit into a header.
const NAME_MAX: usize = 100;

const STEP: &str = "put it into an archive";

/// How messages name a file, by its name in the archive.
fn shown(name: &Path) -> Object {
    Object::Path(Path::new("/").join(name))
}

/// An archive that is being written.
pub(super) struct Archive<W: Write> {
    tar: Builder<GzEncoder<BufWriter<W>>>,
    /// Where files that have several names were seen first.
    linked: HashMap<u64, PathBuf>,
}

/// Which folders are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opens {
    /// All.
    All,
    /// Those that have others: whoever opens an empty one of an autofs waits for its daemon.
    Inner,
}

/// A file that was added.
struct Added {
    is_folder: bool,
    links: u64,
}

impl Added {
    /// Whether it is a folder to look into. One without others has two links: its name, and its own dot.
    fn is_opened(&self, opens: Opens) -> bool {
        self.is_folder && (opens == Opens::All || self.links > 2)
    }
}

/// One file, and where it is.
struct Member<'a> {
    /// Its name in the archive; empty for the root.
    path: &'a Path,
    stat: libc::stat,
    /// Names and values of its attributes.
    attributes: Vec<(String, Vec<u8>)>,
}

impl<W: Write> Archive<W> {
    /// Begins one.
    pub(super) fn new(file: W) -> Self {
        // Speed counts: while this goes on, the tree stands still.
        let encoder = GzEncoder::new(BufWriter::new(file), Compression::fast());
        Self { tar: Builder::new(encoder), linked: HashMap::new() }
    }

    /// Adds a folder of the file system, given by a descriptor, with all that is in it, but nothing of what is mounted there.
    /// Changes the working directory.
    pub(super) fn add(&mut self, root: &OwnedFd, name: &Path, opens: Opens) -> Result<(), Problem> {
        let mut folders = vec![PathBuf::new()];
        fchdir(root).map_err(SysError::of("fchdir")).about(|| shown(name)).while_trying_to(STEP)?;
        self.add_member(Path::new("."), name)?;
        while let Some(folder) = folders.pop() {
            for entry in enter(root, &folder).about(|| shown(&name.join(&folder)))? {
                let inside = folder.join(&entry);
                if self.add_member(Path::new(&entry), &name.join(&inside))?.is_opened(opens) {
                    folders.push(inside);
                }
            }
        }
        Ok(())
    }

    /// Adds one file, or one folder without what is in it, under this name. Changes the working directory.
    pub(super) fn add_alone(&mut self, path: &Path, name: &str) -> Result<(), Problem> {
        chdir(path.parent().unwrap_or(Path::new("/"))).map_err(SysError::of("chdir"))?;
        let last = path.file_name().map_or(Path::new("."), Path::new);
        self.add_member(last, Path::new(name)).map(drop)
    }

    /// Adds one file or folder of the working directory.
    fn add_member(&mut self, last: &Path, name: &Path) -> Result<Added, Problem> {
        let mut add = || -> Result<Added, Problem> {
            let stat = fstatat(nix::fcntl::AT_FDCWD, last, AtFlags::AT_SYMLINK_NOFOLLOW);
            let stat = stat.map_err(SysError::of("fstatat"))?;
            let attributes = attributes(last)?;
            let member = Member { path: name, stat, attributes };
            self.append(&member, last)?;
            Ok(Added { is_folder: stat.st_mode & libc::S_IFMT == libc::S_IFDIR, links: stat.st_nlink })
        };
        add().about(|| shown(name)).while_trying_to(STEP)
    }

    fn append(&mut self, member: &Member<'_>, last: &Path) -> Result<(), Problem> {
        let kind = member.stat.st_mode & libc::S_IFMT;
        if kind != libc::S_IFDIR && member.stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&member.stat.st_ino) {
                let first = first.clone();
                return self.append_as(member, EntryType::Link, Some(first.as_os_str()), io::empty(), 0);
            }
            self.linked.insert(member.stat.st_ino, member.path.to_owned());
        }
        match kind {
            libc::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let file = openat(nix::fcntl::AT_FDCWD, last, flags, Mode::empty());
                let file = File::from(file.map_err(SysError::of("open"))?);
                let size = member.stat.st_size as u64;
                // Whatever becomes of the file meanwhile, the archive gets as many bytes as its header says.
                let data = file.take(size).chain(io::repeat(0)).take(size);
                self.append_as(member, EntryType::Regular, None, data, size)
            }
            libc::S_IFLNK => {
                let target = nix::fcntl::readlink(last).map_err(SysError::of("readlink"))?;
                self.append_as(member, EntryType::Symlink, Some(&target), io::empty(), 0)
            }
            libc::S_IFDIR => self.append_as(member, EntryType::Directory, None, io::empty(), 0),
            libc::S_IFCHR => self.append_as(member, EntryType::Char, None, io::empty(), 0),
            libc::S_IFBLK => self.append_as(member, EntryType::Block, None, io::empty(), 0),
            libc::S_IFIFO => self.append_as(member, EntryType::Fifo, None, io::empty(), 0),
            // Sockets, which tar has no type for.
            _ => self.append_as(member, EntryType::Regular, None, io::empty(), 0),
        }
    }

    fn append_as(
        &mut self,
        member: &Member<'_>,
        kind: EntryType,
        target: Option<&OsStr>,
        data: impl io::Read,
        size: u64,
    ) -> Result<(), Problem> {
        let mut records: Vec<pax::Record> = Vec::new();
        let header = header(member, kind, target, size, &mut records);
        let written = || -> io::Result<()> {
            let shown = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.tar.append_pax_extensions(shown)?;
            self.tar.append(&header, data)
        };
        written().map_err(|e| Problem::new(SysError::io("write")(e)))
    }

    /// Ends it.
    pub(super) fn finish(self) -> Result<W, Problem> {
        let finished = self.tar.into_inner().and_then(GzEncoder::finish);
        let file = finished.and_then(|writer| writer.into_inner().map_err(io::IntoInnerError::into_error));
        file.map_err(SysError::io("write")).map_err(Problem::new)
    }
}

/// The header of a member; what does not fit into it goes into records that come before.
fn header(
    member: &Member<'_>,
    kind: EntryType,
    target: Option<&OsStr>,
    size: u64,
    records: &mut Vec<pax::Record>,
) -> Header {
    let stat = &member.stat;
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    if kind == EntryType::Char || kind == EntryType::Block {
        // The header is a GNU one, which has these fields.
        let _has_them = header.set_device_major(libc::major(stat.st_rdev));
        let _has_them = header.set_device_minor(libc::minor(stat.st_rdev));
    }
    let mut name = [b"./", member.path.as_os_str().as_bytes()].concat();
    if kind == EntryType::Directory && !name.ends_with(b"/") {
        name.push(b'/');
    }
    let fields = header.as_old_mut();
    fit(&mut fields.name, &name, pax::PATH, records);
    if let Some(target) = target {
        let target = target.as_bytes();
        let link = if kind == EntryType::Link { [b"./", target].concat() } else { target.to_vec() };
        fit(&mut fields.linkname, &link, pax::LINK_PATH, records);
    }
    if stat.st_mtime_nsec != 0 || stat.st_mtime < 0 {
        let time = pax::time_text(stat.st_mtime, stat.st_mtime_nsec);
        records.push((pax::MTIME.into(), time.into_bytes()));
    }
    if stat.st_mode & libc::S_IFMT == libc::S_IFSOCK && kind == EntryType::Regular {
        records.push((pax::FILE_TYPE.into(), b"socket".to_vec()));
    }
    if kind != EntryType::Link {
        let named = |(name, value): &(String, Vec<u8>)| (format!("{}{name}", pax::XATTR), value.clone());
        records.extend(member.attributes.iter().map(named));
    }
    header.set_cksum();
    header
}

/// Puts a name into its field, or into a record if it is too long; the field then has its beginning.
fn fit(field: &mut [u8; NAME_MAX], name: &[u8], key: &str, records: &mut Vec<pax::Record>) {
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
    if name.len() > NAME_MAX {
        records.push((key.to_owned(), name.to_vec()));
    }
}

/// Makes a folder the working directory; the names in it, in an order that does not depend on the file system.
fn enter(root: &OwnedFd, folder: &Path) -> Result<Vec<OsString>, SysError> {
    let dir = match below::open(root, folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        // Something is mounted there that could not be taken off: what it covers nobody can see.
        Err(SysError { errno: Errno::EXDEV, .. }) => return Ok(Vec::new()),
        opened => opened?,
    };
    fchdir(&dir).map_err(SysError::of("fchdir"))?;
    let dir = Dir::from_fd(dir).map_err(SysError::of("fdopendir"))?;
    let mut names = Vec::new();
    for entry in dir {
        let entry = entry.map_err(SysError::of("readdir"))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn attributes(path: &Path) -> Result<Vec<(String, Vec<u8>)>, SysError> {
    let names = match xattr::list_of_link(path) {
        Err(SysError { errno: Errno::EOPNOTSUPP, .. }) => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut attributes = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // Names are ours or the kernel's, and those that are not text no program can have set by tar's rules.
        let Ok(text) = name.to_str() else { continue };
        attributes.push((text.to_owned(), xattr::get_of_link(path, name)?));
    }
    Ok(attributes)
}
