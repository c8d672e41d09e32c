//! Files with a name: regular files, directories, memory devices such as `/dev/null`, and anything opened `O_PATH`.
//!
//! Everything about them is seen from outside: `/proc/PID/fd/N`, `fdinfo`, `stat(2)`. They are opened again by name, so
//! the name must lead to the same file, and the file must be what it was.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::messages::{FdTypes, FileEntry, FownEntry, RegFileEntry};

use super::name::{self, Seen};
use super::policy::{self, PolicyRefusal};
use super::validation::{self, Difference};
use super::{
    FdFacts, FileKind, FilesDump, FilesRestore, device, foreign, mounted, posix_queue, remap, set_common,
};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::options::Validation;
use crate::procfs::link::Link;

/// Files that are opened again by their name.
#[derive(Debug)]
pub struct Regular;

/// Why such a file cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum RegularRefusal {
    /// It is not what it was.
    #[error("the file has changed since: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Changed(Vec<Difference>),
    /// It is gone.
    #[error("the file does not exist any more")]
    Missing,
}

impl Explain for RegularRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            Self::Missing => "put the file back as it was when the process was dumped",
            Self::Changed(differences) => {
                let mode = differences.iter().all(|d| matches!(d, Difference::Mode { .. }));
                if mode {
                    "put the file back as it was, or pass --skip-file-rwx-check"
                } else {
                    "put the file back as it was when the process was dumped"
                }
            }
        };
        Some(text.to_owned())
    }
}

/// Devices of major number 1 that keep no state: null, zero, full, random, urandom.
const MEMORY_DEVICES: [u32; 5] = [3, 5, 7, 8, 9];

/// Whether a character device keeps no state of its own.
fn is_stateless_device(stat: &libc::stat) -> bool {
    libc::major(stat.st_rdev) == 1 && MEMORY_DEVICES.contains(&libc::minor(stat.st_rdev))
}

/// Inodes of the tree's regular files.
#[derive(Debug, Default)]
struct Dumped {
    /// Those that somebody appends to: their size says nothing.
    growing: BTreeSet<(u64, u64)>,
    /// Those of all entries.
    inodes: Vec<(u32, (u64, u64))>,
}

/// The build id of an open file, which is opened once more, since reading by the target's own description would leave a time of
/// access. To open one on which there is a lease would break the lease; its holder is the only one who has it open.
fn build_id(fd: &FdFacts<'_>, seen: &Seen<'_>) -> Vec<u32> {
    if !fd.info.values("lock").any(|lock| lock.windows(5).any(|word| word == b"LEASE")) {
        return validation::build_id_of(&seen.reach);
    }
    let reads = fd.flags() & libc::O_ACCMODE != libc::O_WRONLY && !fd.is_path_only();
    fd.dup().ok().filter(|_| reads).map(validation::build_id).unwrap_or_default()
}

impl FileKind for Regular {
    const NAME: &'static str = "regular";
    const NOT_SAVED: &'static [&'static str] = &[
        "contents of files that keep their names",
        "credentials of the opener",
        "read-ahead state",
        "of a removed file: flags of chattr(1), security labels, times of birth and change",
        "the name that a removed file shows, if another file has it at restore: it gets a number",
    ];
    const TYPE: FdTypes = FdTypes::Reg;
    type Image = RegFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        if !matches!(fd.link(), Link::Path(_) | Link::Deleted(_) | Link::Unreachable(_)) {
            return false;
        }
        match fd.file_type() {
            libc::S_IFREG => !foreign::is_memory(fd) && !posix_queue::is_queue(fd),
            libc::S_IFDIR => true,
            libc::S_IFCHR => fd.is_path_only() || is_stateless_device(&fd.stat),
            _ => fd.is_path_only(),
        }
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<RegFileEntry>> {
        &mut entry.reg
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<RegFileEntry, Problem> {
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let pos = if fd.is_path_only() { 0 } else { fd.info.pos as u64 };
        if let Some(key) = policy::external_file(&cx.options.files, fd) {
            let external = describe(id, &key, fd.flags(), pos, fown, &fd.stat);
            return Ok(RegFileEntry { ext: Some(true), size: None, mode: None, ..external });
        }
        let reach = format!("/proc/{}/fd/{}", fd.pid, fd.fd);
        let seen = Seen { link: &fd.link, stat: &fd.stat, reach, leads: fd.leads, position: pos as i64 };
        if let Some((path, stat)) = device::other_node(cx, &seen) {
            device::note(cx, id, &path, &stat);
            return Ok(describe(id, &path, fd.flags(), pos, fown, &stat));
        }
        if let Some((name, mount)) = mounted::find(cx, id, &seen)? {
            let entry = describe(id, &name, fd.flags(), pos, fown, &fd.stat);
            return Ok(RegFileEntry { mnt_id: Some(mount), ..entry });
        }
        let name = name::of_file(cx, id, &seen)?;
        device::note(cx, id, &name, &fd.stat);
        let mut entry = describe(id, &name, fd.flags(), pos, fown, &fd.stat);
        if entry.size.is_some() {
            if fd.flags() & libc::O_APPEND != 0 {
                cx.state::<Dumped>().growing.insert(seen.inode());
            }
            cx.state::<Dumped>().inodes.push((id, seen.inode()));
            let is_program = fd.stat.st_mode & 0o111 != 0;
            if is_program && cx.options.files.validation == Validation::BuildId {
                entry.build_id = build_id(fd, &seen);
            }
        }
        Ok(entry)
    }

    fn finish(cx: &mut FilesDump<'_>, _images: &mut NewImages) -> Result<(), Problem> {
        let Dumped { growing, inodes } = std::mem::take(cx.state::<Dumped>());
        for (id, _) in inodes.iter().filter(|(_, inode)| growing.contains(inode)) {
            if let Some(reg) = cx.entry_mut(*id).and_then(|entry| entry.reg.as_mut()) {
                reg.size = None;
            }
        }
        Ok(())
    }

    fn check(cx: &FilesRestore<'_>, image: &RegFileEntry) -> Result<(), Problem> {
        let path = OsStr::from_bytes(image.name.as_bytes());
        let about = |p: Problem| p.object(Object::Path(path.into()));
        if image.ext() && !policy::is_handed_in(cx, &image.name) {
            return Err(about(Problem::new(PolicyRefusal::NotHandedIn(image.name.clone()))));
        }
        if image.ext() || policy::is_handed_in(cx, &image.name) {
            return Ok(());
        }
        if cx.remaps.has(image.id) {
            return remap::check(cx, image).map_err(about);
        }
        if mounted::is_of_tasks(cx, image) {
            return Ok(());
        }
        if let Some(path) = mounted::path(cx, image) {
            let stat = nix::sys::stat::stat(&path).map_err(SysError::of("stat"));
            let stat = stat.map_err(|e| about(Problem::new(e)))?;
            return validation::check(&cx.options.files, &path, &stat, image).map_err(about);
        }
        if mounted::is_wanted(cx, image) {
            return Err(about(Problem::new(RegularRefusal::Missing)));
        }
        if path.as_bytes().starts_with(b"/proc/") {
            // Of a task that is not there yet.
            return Ok(());
        }
        if device::elsewhere(cx, image).map_err(|e| about(e.into()))?.is_some() {
            return Ok(());
        }
        let stat = match nix::sys::stat::lstat(path) {
            Ok(stat) => stat,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(about(Problem::new(RegularRefusal::Missing))),
            Err(errno) => return Err(about(Problem::new(SysError { call: "lstat", errno }))),
        };
        validation::check(&cx.options.files, Path::new(path), &stat, image).map_err(about)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &RegFileEntry) -> Result<OwnedFd, Problem> {
        if let Some(fd) = policy::handed_in(cx, std::slice::from_ref(&image.name))? {
            return Ok(fd);
        }
        if let Some(fd) = remap::open(cx, image)? {
            return Ok(fd);
        }
        if let Some(path) = mounted::path(cx, image) {
            return reopen(&path, image).about(|| Object::Path(image.name.clone().into()));
        }
        if mounted::is_wanted(cx, image) {
            let missing = Problem::new(RegularRefusal::Missing);
            return Err(missing.object(Object::Path(image.name.clone().into())));
        }
        let other = device::elsewhere(cx, image)?;
        let path = other.as_deref().unwrap_or(Path::new(&image.name));
        reopen(path, image).about(|| Object::Path(path.into())).while_trying_to("open the file again")
    }
}

/// Whether a file was opened as one that has no name (`O_TMPFILE`).
pub(super) fn is_unnamed(flags: i32) -> bool {
    flags & libc::O_TMPFILE == libc::O_TMPFILE
}

/// Opens a file as it was open, by a path that leads to it now.
pub(super) fn reopen(path: &Path, image: &RegFileEntry) -> Result<OwnedFd, Problem> {
    let flags = OFlag::from_bits_retain(image.flags as i32);
    // These act when a file is opened, and were spent then.
    let mut spent = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_TRUNC | OFlag::O_ASYNC;
    if is_unnamed(image.flags as i32) {
        spent |= OFlag::O_TMPFILE;
    }
    let open = (flags - spent) | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let fd = nix::fcntl::open(path, open, Mode::empty()).map_err(SysError::of("open"))?;
    if !flags.contains(OFlag::O_PATH) {
        set_state(&fd, image)?;
    }
    Ok(fd)
}

/// Gives a file that was opened its position and what else opening does not set.
pub(super) fn set_state(fd: &OwnedFd, image: &RegFileEntry) -> Result<(), Problem> {
    let is_regular = image.mode.is_none_or(|mode| mode & libc::S_IFMT == libc::S_IFREG);
    if image.pos != 0 || is_regular {
        nix::unistd::lseek(fd.as_fd(), image.pos as i64, nix::unistd::Whence::SeekSet)
            .map_err(SysError::of("lseek"))?;
    }
    set_common(fd.as_fd(), image.flags, Some(&image.fown))
}

pub(super) fn describe(
    id: u32,
    name: &str,
    flags: i32,
    pos: u64,
    fown: FownEntry,
    stat: &libc::stat,
) -> RegFileEntry {
    RegFileEntry {
        id,
        flags: flags as u32,
        pos,
        fown,
        name: name.to_owned(),
        size: (stat.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(stat.st_size as u64),
        mode: Some(stat.st_mode),
        ..RegFileEntry::default()
    }
}

/// An entry for a file that no descriptor refers to.
pub(super) fn entry_for_path(
    cx: &mut FilesDump<'_>,
    id: u32,
    seen: &Seen<'_>,
    flags: i32,
) -> Result<FileEntry, Problem> {
    if let Some((name, mount)) = mounted::find(cx, id, seen)? {
        let reg = describe(id, &name, flags, 0, FownEntry::default(), seen.stat);
        let reg = Some(Box::new(RegFileEntry { mnt_id: Some(mount), ..reg }));
        return Ok(FileEntry { r#type: FdTypes::Reg.into(), id, reg, ..FileEntry::default() });
    }
    let name = name::of_file(cx, id, seen)?;
    device::note(cx, id, &name, seen.stat);
    let mut reg = describe(id, &name, flags, 0, FownEntry::default(), seen.stat);
    if reg.size.is_some() {
        cx.state::<Dumped>().inodes.push((id, seen.inode()));
        let is_program = seen.stat.st_mode & 0o111 != 0;
        if is_program && cx.options.files.validation == Validation::BuildId {
            reg.build_id = validation::build_id_of(&seen.reach);
        }
    }
    Ok(FileEntry { r#type: FdTypes::Reg.into(), id, reg: Some(Box::new(reg)), ..FileEntry::default() })
}

/// Libraries whose build ids were looked for.
#[derive(Debug, Default)]
struct Libraries(BTreeSet<u32>);

/// Notes that code is run from a mapped file, which may be no program by its mode: it may have a build id.
pub fn note_code(cx: &mut FilesDump<'_>, id: u32, reach: &str) {
    if cx.options.files.validation != Validation::BuildId || !cx.state::<Libraries>().0.insert(id) {
        return;
    }
    if let Some(reg) = cx.entry_mut(id).and_then(|entry| entry.reg.as_mut())
        && reg.build_id.is_empty()
    {
        reg.build_id = validation::build_id_of(reach);
    }
}
