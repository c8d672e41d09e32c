//! Ghosts: files that were removed while somebody still used them. The image holds the whole inode.
//!
//! A ghost of any type is made again at its old name, where nobody has that now, opened for all of its users, and
//! removed. Its contents are in place before it has a name. Holes stay holes. Where its file system is mounted read-only,
//! it is made through a writable view of the same file system; where that cannot be written at all, in the folder for
//! temporary files.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};
use proto::messages::{
    GhostChunkEntry, GhostFileEntry, RegFileEntry, StasisGhostEntry, StasisXattrEntry, Timeval,
};

use super::name::Seen;
use super::remap::{Moment, open_each, path_of};
use super::{device, regular};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::options::FileOptions;
use crate::sys::{memory, mount, xattr};

/// Why a removed file cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum GhostRefusal {
    /// It has more bytes than may be kept.
    #[error("the file was removed and has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes that would have to be kept, without holes.
        bytes: u64,
        /// `--ghost-limit`.
        limit: u64,
    },
    /// A type that nothing makes again.
    #[error("the file was removed and has the type {0:o}, which cannot be made again")]
    Type(u32),
}

impl Explain for GhostRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::TooLarge { bytes, .. } => {
                Some(format!("raise the limit: --ghost-limit {}M", bytes.div_ceil(1 << 20)))
            }
            Self::Type(_) => None,
        }
    }
}

/// Largest piece that is copied at once.
const CHUNK: u64 = 1 << 20;

/// A removed file of a tree that is being dumped.
#[derive(Debug)]
pub(super) struct Ghost {
    /// Number of its image.
    pub id: u32,
    stat: libc::stat,
    reach: String,
}

impl Ghost {
    /// Takes note of a file, unless it is too large.
    pub(super) fn new(id: u32, seen: &Seen<'_>, limit: u64) -> Result<Self, Problem> {
        let stat = seen.stat;
        if seen.file_type() == libc::S_IFREG {
            let allocated = (stat.st_blocks as u64).saturating_mul(512);
            let bytes = allocated.min(stat.st_size as u64);
            if bytes > limit {
                return Err(Problem::new(GhostRefusal::TooLarge { bytes, limit }));
            }
        }
        Ok(Self { id, stat: *stat, reach: seen.reach.clone() })
    }

    fn describe(&self) -> GhostFileEntry {
        let stat = &self.stat;
        let time =
            |seconds: i64, nanos: i64| Timeval { tv_sec: seconds as u64, tv_usec: nanos as u64 / 1000 };
        let is_device = matches!(stat.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            dev: Some(libc::major(stat.st_dev) << 20 | libc::minor(stat.st_dev)),
            ino: Some(stat.st_ino),
            rdev: is_device.then_some(stat.st_rdev as u32),
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            ..GhostFileEntry::default()
        }
    }

    fn describe_more(&self) -> Result<StasisGhostEntry, Problem> {
        Ok(StasisGhostEntry {
            ghost_id: self.id,
            atim_nsec: Some(self.stat.st_atime_nsec as u32),
            mtim_nsec: Some(self.stat.st_mtime_nsec as u32),
            xattrs: attributes(Path::new(&self.reach))?,
        })
    }

    fn write(&self, images: &mut NewImages) -> Result<(), Problem> {
        let mut entry = self.describe();
        let image = &proto::catalogue::GHOST_FILE;
        match self.stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => return self.write_contents(images, entry),
            libc::S_IFLNK => entry.symlnk_target = Some(read_target(&self.reach)?),
            _ => {}
        }
        images.write(image, self.id.into(), &[entry])
    }

    fn write_contents(&self, images: &mut NewImages, mut entry: GhostFileEntry) -> Result<(), Problem> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOATIME | OFlag::O_CLOEXEC;
        let file = nix::fcntl::open(self.reach.as_str(), flags, Mode::empty());
        let file = File::from(file.map_err(SysError::of("open"))?);
        let size = self.stat.st_size as u64;
        let runs = memory::data_runs(&file)?;
        let is_whole = runs.as_slice() == [(0, size)] && size <= CHUNK;
        if !is_whole && size != 0 {
            entry.chunks = Some(true);
            entry.size = Some(size);
        }
        let mut failed = None;
        images.write_with(&proto::catalogue::GHOST_FILE, self.id.into(), |writer| {
            writer.entry(&entry)?;
            for (mut at, end) in runs {
                while at < end.min(size) {
                    let mut bytes = vec![0; CHUNK.min(end.min(size) - at) as usize];
                    if let Err(e) = file.read_exact_at(&mut bytes, at) {
                        failed = Some(SysError::io("read")(e));
                        return Ok(());
                    }
                    if entry.chunks() {
                        writer.entry(&GhostChunkEntry { len: bytes.len() as u64, off: at })?;
                    }
                    writer.extra(&bytes)?;
                    at += bytes.len() as u64;
                }
            }
            Ok(())
        })?;
        failed.map_or(Ok(()), |e| Err(e.into()))
    }
}

/// Where a removed symbolic link leads.
fn read_target(reach: &str) -> Result<String, Problem> {
    let link = nix::fcntl::open(reach, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let link = link.map_err(SysError::of("open"))?;
    let target = nix::fcntl::readlinkat(&link, "").map_err(SysError::of("readlinkat"))?;
    target.into_string().map_err(|_not_utf8| Problem::new(super::name::NameRefusal::NotUtf8))
}

/// Labels that belong to the security policy of the machine, which sets them itself.
const LABELS: [&[u8]; 4] = [b"security.selinux", b"security.SMACK64", b"security.ima", b"security.evm"];

/// Extended attributes of a file.
fn attributes(path: &Path) -> Result<Vec<StasisXattrEntry>, Problem> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(SysError { errno: Errno::ENOTSUP, .. }) => return Ok(Vec::new()),
        Err(e) => return Err(Problem::new(e).step("list its extended attributes")),
    };
    let mut found = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0).filter_map(|n| CStr::from_bytes_with_nul(n).ok()) {
        if !LABELS.contains(&name.to_bytes()) {
            let value = xattr::get(path, name).while_trying_to("read an extended attribute")?;
            found.push(StasisXattrEntry { name: name.to_bytes().to_vec(), value });
        }
    }
    Ok(found)
}

/// Writes all of them.
pub(super) fn write(images: &mut NewImages, ghosts: &[&Ghost]) -> Result<(), Problem> {
    let mut more = Vec::new();
    for ghost in ghosts {
        let about = || Object::Path(ghost.reach.clone().into());
        let step = "keep a removed file";
        ghost.write(images).about(about).while_trying_to(step)?;
        more.push(ghost.describe_more().about(about).while_trying_to(step)?);
    }
    if more.is_empty() { Ok(()) } else { images.write(&proto::catalogue::STASIS_GHOSTS, 0, &more) }
}

/// Finds what would make a restore of a ghost fail: its image must be there, and describe something that can be made.
pub(super) fn check(images: &Images, id: u32) -> Result<(), Problem> {
    let entry = images.read_with(&proto::catalogue::GHOST_FILE, id.into(), |mut reader| {
        reader.required::<GhostFileEntry>()
    })?;
    let file_type = entry.mode & libc::S_IFMT;
    let known = [
        libc::S_IFREG,
        libc::S_IFDIR,
        libc::S_IFLNK,
        libc::S_IFIFO,
        libc::S_IFCHR,
        libc::S_IFBLK,
        libc::S_IFSOCK,
    ];
    if known.contains(&file_type) { Ok(()) } else { Err(Problem::new(GhostRefusal::Type(file_type))) }
}

/// Makes a ghost again, and opens it for each of its users. Its folder is known if its name does not lead there.
pub(super) fn make(
    images: &Images,
    options: &FileOptions,
    id: u32,
    users: &[RegFileEntry],
    folder: Option<&Path>,
) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    let Some(first) = users.first() else { return Ok(Vec::new()) };
    let name = Path::new(&first.name);
    let entry = images.read_with(&proto::catalogue::GHOST_FILE, id.into(), |mut reader| {
        reader.required::<GhostFileEntry>()
    })?;
    let file_type = entry.mode & libc::S_IFMT;
    if options.evasive_devices
        && matches!(file_type, libc::S_IFCHR | libc::S_IFBLK)
        && let Some(other) = device::find(file_type, entry.rdev.unwrap_or(0).into())
    {
        return open_each(&other, users);
    }
    let base = name.file_name().map_or_else(|| "removed".into(), |base| base.to_string_lossy().into_owned());
    let ghost = Restored { images, id, entry, more: read_more(images, id)?, base, users };
    let folder = folder.or_else(|| name.parent()).unwrap_or(Path::new("/"));
    let made = ghost.make_in(folder, folder).or_else(|e| {
        if e.cause.class() == Class::Environment { ghost.make_elsewhere(name, folder) } else { Err(e) }
    });
    made.about(|| Object::Path(name.into())).while_trying_to("make a removed file again")
}

fn read_more(images: &Images, id: u32) -> Result<StasisGhostEntry, Problem> {
    let image = &proto::catalogue::STASIS_GHOSTS;
    let all: Vec<StasisGhostEntry> = if images.has(image, 0) { images.read(image, 0)? } else { Vec::new() };
    Ok(all.into_iter().find(|entry| entry.ghost_id == id).unwrap_or_default())
}

/// A ghost that is being made again.
struct Restored<'a> {
    images: &'a Images,
    id: u32,
    entry: GhostFileEntry,
    more: StasisGhostEntry,
    /// The last part of its old name.
    base: String,
    users: &'a [RegFileEntry],
}

impl Restored<'_> {
    /// Where its folder cannot be written: through another view of the same file system, or somewhere else.
    fn make_elsewhere(&self, name: &Path, folder: &Path) -> Result<Vec<(u32, OwnedFd)>, Problem> {
        let through_view = || {
            let view = mount::clone_tree(folder)?;
            mount::allow_writing(&view)?;
            self.make_in(&path_of(&view), folder)
        };
        through_view().or_else(|e| {
            let temporary = std::env::temp_dir();
            let (name, cause, instead) = (name.display(), e.cause, temporary.display());
            log::warn!("{name}: its folder cannot be written ({cause}), so it is made in {instead} again");
            self.make_in(&temporary, &temporary)
        })
    }

    /// Makes it in a folder that may have two paths: one to write, and one to open it by.
    fn make_in(&self, folder: &Path, seen_as: &Path) -> Result<Vec<(u32, OwnedFd)>, Problem> {
        let _scaffold = Scaffold::build(folder)?;
        let unnamed = self.users.iter().find(|user| regular::is_unnamed(user.flags as i32));
        if let Some(user) = unnamed
            && let Some(opened) = self.make_unnamed(folder, user)?
        {
            return Ok(opened);
        }
        let (_moment, base) = self.make_named(folder)?;
        open_each(&seen_as.join(base), self.users)
    }

    /// As a file that never had a name (`O_TMPFILE`), which may still get one; none if the file system has no such files.
    fn make_unnamed(
        &self,
        folder: &Path,
        user: &RegFileEntry,
    ) -> Result<Option<Vec<(u32, OwnedFd)>>, Problem> {
        let flags = OFlag::from_bits_retain(user.flags as i32 & !libc::O_ASYNC) | OFlag::O_CLOEXEC;
        let Some(file) = open_unnamed(folder, flags)? else { return Ok(None) };
        self.fill(&file)?;
        let fd = OwnedFd::from(file);
        self.describe(&path_of(&fd), Follow::Yes)?;
        let others: Vec<RegFileEntry> =
            self.users.iter().filter(|other| other.id != user.id).cloned().collect();
        let mut opened = open_each(&path_of(&fd), &others)?;
        regular::set_state(&fd, user)?;
        opened.push((user.id, fd));
        Ok(Some(opened))
    }

    /// As a file with a name that nobody has, for a moment: its own, or its own with a number.
    fn make_named(&self, folder: &Path) -> Result<(Moment, String), Problem> {
        let is_regular = self.entry.mode & libc::S_IFMT == libc::S_IFREG;
        let contents = if is_regular { self.fill_unnamed(folder)? } else { None };
        for number in 0..1000 {
            let base = if number == 0 { self.base.clone() } else { format!("{}.{number}", self.base) };
            let path = folder.join(&base);
            match self.take_name(&path, contents.as_ref()) {
                Ok(file) => {
                    let moment = Moment(path);
                    if let Some(file) = file {
                        self.fill(&file)?;
                    }
                    if contents.is_none() {
                        self.describe(&moment.0, Follow::No)?;
                    }
                    return Ok((moment, base));
                }
                Err(SysError { errno: Errno::EEXIST, .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Problem::new(SysError { call: "linkat", errno: Errno::EEXIST }))
    }

    /// The complete file without a name, where the file system has such files.
    fn fill_unnamed(&self, folder: &Path) -> Result<Option<OwnedFd>, Problem> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let Some(file) = open_unnamed(folder, flags)? else { return Ok(None) };
        self.fill(&file)?;
        let fd = OwnedFd::from(file);
        self.describe(&path_of(&fd), Follow::Yes)?;
        Ok(Some(fd))
    }

    /// Gives it a name that must be free; a regular file that is made with its name comes back to be filled.
    fn take_name(&self, path: &Path, contents: Option<&OwnedFd>) -> Result<Option<File>, SysError> {
        if let Some(fd) = contents {
            let linked =
                nix::unistd::linkat(AT_FDCWD, &path_of(fd), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW);
            return linked.map(|()| None).map_err(SysError::of("linkat"));
        }
        if self.entry.mode & libc::S_IFMT == libc::S_IFREG {
            let file = File::options().read(true).write(true).create_new(true).open(path);
            return file.map(Some).map_err(SysError::io("open(O_CREAT)"));
        }
        self.create_other(path).map(|()| None)
    }

    fn create_other(&self, path: &Path) -> Result<(), SysError> {
        let private = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IXUSR;
        match self.entry.mode & libc::S_IFMT {
            libc::S_IFDIR => nix::unistd::mkdir(path, private).map_err(SysError::of("mkdir")),
            libc::S_IFLNK => {
                let target = self.entry.symlnk_target.as_deref().unwrap_or_default();
                nix::unistd::symlinkat(target, AT_FDCWD, path).map_err(SysError::of("symlink"))
            }
            file_type => {
                let file_type = SFlag::from_bits_truncate(file_type);
                let device = u64::from(self.entry.rdev.unwrap_or(0));
                nix::sys::stat::mknod(path, file_type, private, device).map_err(SysError::of("mknod"))
            }
        }
    }

    /// Writes the contents; where there are none, there is a hole.
    fn fill(&self, file: &File) -> Result<(), Problem> {
        let image = &proto::catalogue::GHOST_FILE;
        let damaged = |what| invalid(image, self.id.into(), what);
        let size = self.entry.size;
        if let Some(size) = size {
            let size = i64::try_from(size).map_err(|_too_large| damaged("its size is impossible"))?;
            nix::unistd::ftruncate(file, size).map_err(SysError::of("ftruncate"))?;
        }
        let chunked = self.entry.chunks();
        let mut failed = None;
        self.images.read_with(image, self.id.into(), |mut reader| {
            let _read_before = reader.required::<GhostFileEntry>()?;
            loop {
                let (at, bytes) = if chunked {
                    let Some(chunk) = reader.entry::<GhostChunkEntry>()? else { return Ok(()) };
                    (chunk.off, reader.extra(chunk.len)?)
                } else {
                    (0, reader.rest()?)
                };
                let fits =
                    at.checked_add(bytes.len() as u64).is_some_and(|end| size.is_none_or(|s| end <= s));
                let written = if fits {
                    file.write_all_at(&bytes, at).map_err(|e| Problem::new(SysError::io("write")(e)))
                } else {
                    Err(damaged("a piece lies behind the end of the file"))
                };
                failed = written.err();
                if !chunked || failed.is_some() {
                    return Ok(());
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Sets owner, mode, attributes and times, in an order in which none undoes another.
    fn describe(&self, path: &Path, follow: Follow) -> Result<(), Problem> {
        let entry = &self.entry;
        let is_link = entry.mode & libc::S_IFMT == libc::S_IFLNK;
        let at = if follow == Follow::Yes { AtFlags::empty() } else { AtFlags::AT_SYMLINK_NOFOLLOW };
        let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        nix::unistd::fchownat(AT_FDCWD, path, owner.0, owner.1, at).map_err(SysError::of("fchownat"))?;
        if !is_link {
            let mode = Mode::from_bits_truncate(entry.mode);
            nix::sys::stat::fchmodat(AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)
                .map_err(SysError::of("fchmodat"))?;
        }
        for attribute in &self.more.xattrs {
            let name = CString::new(attribute.name.clone()).unwrap_or_default();
            let set = if follow == Follow::Yes { xattr::set_followed } else { xattr::set };
            set(path, &name, &attribute.value).while_trying_to("set an extended attribute")?;
        }
        let time = |time: Option<&Timeval>, nanos: Option<u32>| {
            let Some(time) = time else { return TimeSpec::UTIME_NOW };
            let nanos = nanos.map_or(time.tv_usec.wrapping_mul(1000) as i64, i64::from);
            TimeSpec::new(time.tv_sec as i64, nanos.clamp(0, 999_999_999))
        };
        let atime = time(entry.atim.as_ref(), self.more.atim_nsec);
        let mtime = time(entry.mtim.as_ref(), self.more.mtim_nsec);
        let flag = if follow == Follow::Yes {
            UtimensatFlags::FollowSymlink
        } else {
            UtimensatFlags::NoFollowSymlink
        };
        nix::sys::stat::utimensat(AT_FDCWD, path, &atime, &mtime, flag).map_err(SysError::of("utimensat"))?;
        Ok(())
    }
}

/// A regular file without a name; none if the file system has no such files.
fn open_unnamed(folder: &Path, flags: OFlag) -> Result<Option<File>, SysError> {
    match nix::fcntl::open(folder, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => Ok(None),
        Err(errno) => Err(SysError { call: "open(O_TMPFILE)", errno }),
    }
}

/// Whether a path is a link in `/proc/self/fd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

/// Folders that exist only so that a ghost can have its old path for a moment.
#[derive(Debug, Default)]
struct Scaffold(Vec<PathBuf>);

impl Scaffold {
    fn build(folder: &Path) -> Result<Self, SysError> {
        let mut scaffold = Self::default();
        let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev() {
            nix::unistd::mkdir(path, Mode::S_IRWXU).map_err(SysError::of("mkdir"))?;
            scaffold.0.push(path.to_owned());
        }
        Ok(scaffold)
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            if let Err(e) = fs::remove_dir(path) {
                log::error!("cannot remove {}, which was made for a moment: {e}", path.display());
            }
        }
    }
}
