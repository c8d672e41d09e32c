//! Files whose name no longer leads to them: removed, or linked elsewhere.
//!
//! At dump, a removed file is kept whole (`ghost.rs`), and one that has other names gets one more beside its old one, on
//! request (`--link-remap`). At restore such a file has its old name for as long as it takes to open it for every id that
//! stands for it; then the name is taken away again, so that `/proc` shows it as removed. If the name is another file's by
//! now, that file is left alone, and the removed one shows a name with a number behind.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use proto::messages::{FdTypes, FileEntry, RegFileEntry, RemapFilePathEntry, RemapType};

use super::ended::{self, OfProcess};
use super::ghost::{self, Ghost};
use super::name::Seen;
use super::{FilesDump, FilesRestore, mounted, regular};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::inside::AsOwner;

/// Why what stands in for a name cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum RemapRefusal {
    /// It has other names, and nobody allowed another one.
    #[error("its name was removed, but the file has other names ({0} links)")]
    LinkedElsewhere(u64),
    /// There is no place beside its old name.
    #[error(
        "its name was removed, the file has other names, and the folder it was in is gone or another one"
    )]
    NoFolder,
    /// A thread of `/proc` that has ended, of a process that has more of them.
    #[error("it is a file in /proc of a thread that has ended")]
    EndedThread,
    /// The temporary name is gone.
    #[error("the name that was kept for the file, {0}, does not exist any more")]
    LinkGone(String),
}

impl Explain for RemapRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::LinkedElsewhere(_) => {
                Some("pass --link-remap, which gives the file one more name until it is restored".into())
            }
            _ => None,
        }
    }
}

/// What stands in for names in a tree that is being dumped.
#[derive(Debug, Default)]
struct Dumped {
    ghosts: BTreeMap<(u64, u64), Ghost>,
    links: BTreeMap<(u64, u64), Link>,
    remaps: Vec<RemapFilePathEntry>,
}

/// A name to be given to a file that has others.
#[derive(Debug)]
struct Link {
    /// Id of the entry with the name.
    id: u32,
    reach: String,
    path: PathBuf,
}

/// Notes that file `id` has no name any more.
pub(super) fn note_removed(cx: &mut FilesDump<'_>, id: u32, seen: &Seen<'_>) -> Result<(), Problem> {
    let limit = cx.options.files.ghost_limit.0;
    let dumped = cx.state::<Dumped>();
    let next = dumped.ghosts.len() as u32 + 1;
    let ghost = match dumped.ghosts.entry(seen.inode()) {
        std::collections::btree_map::Entry::Occupied(known) => known.get().id,
        std::collections::btree_map::Entry::Vacant(new) => new.insert(Ghost::new(next, seen, limit)?).id,
    };
    dumped.remaps.push(entry(id, ghost, RemapType::Ghost));
    Ok(())
}

/// Notes that file `id` is one of a process that has ended.
pub(super) fn note_ended(cx: &mut FilesDump<'_>, id: u32, pid: i32) {
    cx.state::<Dumped>().remaps.push(entry(id, pid as u32, RemapType::Procfs));
}

/// Notes that file `id`, once called `name`, has other names only.
pub(super) fn note_linked(
    cx: &mut FilesDump<'_>,
    id: u32,
    name: &Path,
    seen: &Seen<'_>,
) -> Result<(), Problem> {
    if !cx.options.files.link_remap {
        return Err(Problem::new(RemapRefusal::LinkedElsewhere(seen.stat.st_nlink)));
    }
    let known = cx.state::<Dumped>().links.get(&seen.inode()).map(|link| link.id);
    let link = match known {
        Some(link) => link,
        None => new_link(cx, name, seen)?,
    };
    cx.state::<Dumped>().remaps.push(entry(id, link, RemapType::Linked));
    Ok(())
}

fn new_link(cx: &mut FilesDump<'_>, name: &Path, seen: &Seen<'_>) -> Result<u32, Problem> {
    let folder = name.parent().unwrap_or(Path::new("/"));
    let same_device = nix::sys::stat::stat(folder).is_ok_and(|stat| stat.st_dev == seen.stat.st_dev);
    if !same_device {
        return Err(Problem::new(RemapRefusal::NoFolder));
    }
    let id = cx.new_id();
    let path = free_name(folder, |n| format!("link_remap.{}", u64::from(id) + n));
    let text = path.to_string_lossy().into_owned();
    let reg = regular::describe(id, &text, 0, 0, proto::messages::FownEntry::default(), seen.stat);
    cx.push(FileEntry { r#type: FdTypes::Reg.into(), id, reg: Some(Box::new(reg)), ..FileEntry::default() });
    cx.state::<Dumped>().links.insert(seen.inode(), Link { id, reach: seen.reach.clone(), path });
    Ok(id)
}

fn entry(orig_id: u32, remap_id: u32, remap_type: RemapType) -> RemapFilePathEntry {
    RemapFilePathEntry { orig_id, remap_id, remap_type: Some(remap_type.into()) }
}

/// The first of some names in a folder that nobody has.
fn free_name(folder: &Path, name: impl Fn(u64) -> String) -> PathBuf {
    let mut number = 0;
    loop {
        let path = folder.join(name(number));
        if fs::symlink_metadata(&path).is_err() {
            return path;
        }
        number += 1;
    }
}

/// Makes the names, and writes removed files and what stands in for which file.
pub(super) fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let dumped = std::mem::take(cx.state::<Dumped>());
    if dumped.remaps.is_empty() {
        return Ok(());
    }
    // A file system of a user namespace takes names from those only who have an id there.
    let _owner = AsOwner::of(&cx.options.inside.ids)?;
    for link in dumped.links.values() {
        images.will_create(&link.path);
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            link.reach.as_str(),
            nix::fcntl::AT_FDCWD,
            &link.path,
            AtFlags::AT_SYMLINK_FOLLOW,
        )
        .map_err(SysError::of("linkat"))
        .about(|| Object::Path(link.path.clone()))
        .while_trying_to("give the file another name (--link-remap)")?;
    }
    let mut ghosts: Vec<&Ghost> = dumped.ghosts.values().collect();
    ghosts.sort_by_key(|ghost| ghost.id);
    ghost::write(images, &ghosts)?;
    images.write(&proto::catalogue::REMAP_FPATH, 0, &dumped.remaps)
}

/// What stands in for a file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Remap {
    Ghost(u32),
    Linked(u32),
    /// A process, by its pid.
    Ended(u32),
}

/// What stands in for names in an image set.
#[derive(Debug, Default)]
pub struct Remaps {
    by_id: HashMap<u32, Remap>,
    ids: BTreeMap<Remap, Vec<u32>>,
    /// Names that are taken away when the restore has succeeded.
    spent: Vec<PathBuf>,
}

impl Remaps {
    /// Reads `remap-fpath.img`, if there is one.
    pub fn read(images: &Images) -> Result<Self, Problem> {
        let image = &proto::catalogue::REMAP_FPATH;
        let mut remaps = Self::default();
        if !images.has(image, 0) {
            return Ok(remaps);
        }
        for entry in images.read::<RemapFilePathEntry>(image, 0)? {
            let remap = match entry.remap_type() {
                RemapType::Ghost => Remap::Ghost(entry.remap_id),
                RemapType::Linked => Remap::Linked(entry.remap_id),
                RemapType::Procfs => Remap::Ended(entry.remap_id),
            };
            if remaps.by_id.insert(entry.orig_id, remap).is_some() {
                return Err(invalid(image, 0, "two things stand in for one file"));
            }
            remaps.ids.entry(remap).or_default().push(entry.orig_id);
        }
        Ok(remaps)
    }

    /// Whether the file's own name does not lead to it.
    pub fn has(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Takes away the names that were there for the restore alone.
    pub fn remove_spent(&mut self) {
        for path in self.spent.drain(..) {
            if let Err(e) = fs::remove_file(&path) {
                log::warn!("cannot remove {}, which was made for the restore: {e}", path.display());
            }
        }
    }
}

/// Files that were opened while they had their names.
#[derive(Debug, Default)]
struct Opened(HashMap<u32, OwnedFd>);

/// Finds what would make a restore of such a file fail.
pub(super) fn check(cx: &FilesRestore<'_>, image: &RegFileEntry) -> Result<(), Problem> {
    match cx.remaps.by_id.get(&image.id) {
        Some(Remap::Ghost(ghost)) => ghost::check(cx.images, *ghost),
        Some(Remap::Linked(link)) => {
            let link = cx.regular(*link)?;
            let gone = || Problem::new(RemapRefusal::LinkGone(link.name.clone()));
            fs::symlink_metadata(&link.name).map(|_| ()).map_err(|_gone| gone())
        }
        Some(Remap::Ended(_)) if OfProcess::parse(&image.name).is_some_and(OfProcess::is_everyones) => Ok(()),
        Some(Remap::Ended(_)) => Err(Problem::new(RemapRefusal::EndedThread)),
        None => Ok(()),
    }
}

/// The file of an entry, if something stands in for its name.
pub(super) fn open(cx: &mut FilesRestore<'_>, image: &RegFileEntry) -> Result<Option<OwnedFd>, Problem> {
    let Some(remap) = cx.remaps.by_id.get(&image.id).copied() else { return Ok(None) };
    if !cx.state::<Opened>().0.contains_key(&image.id) {
        let ids = cx.remaps.ids.get(&remap).cloned().unwrap_or_default();
        let users = ids.iter().map(|id| cx.regular(*id).cloned()).collect::<Result<Vec<_>, _>>()?;
        let opened = match remap {
            Remap::Ghost(ghost) => {
                let folder = users.first().and_then(|user| mounted::folder(cx, user));
                ghost::make(cx.images, &cx.options.files, ghost, &users, folder.as_deref())?
            }
            Remap::Linked(link) => {
                let path = PathBuf::from(&cx.regular(link)?.name);
                cx.remaps.spent.push(path.clone());
                open_linked(&path, &users)?
            }
            Remap::Ended(pid) => ended::open(pid as i32, &users)?,
        };
        cx.state::<Opened>().0.extend(opened);
    }
    let missing = SysError { call: "open", errno: Errno::ENOENT };
    cx.state::<Opened>().0.remove(&image.id).map(Some).ok_or_else(|| Problem::new(missing))
}

/// Gives a file with a temporary name its old one for a moment.
fn open_linked(path: &Path, users: &[RegFileEntry]) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    let Some(first) = users.first() else { return Ok(Vec::new()) };
    let name = Path::new(&first.name);
    let cwd = nix::fcntl::AT_FDCWD;
    let moment = match nix::unistd::linkat(cwd, path, cwd, name, AtFlags::empty()) {
        Ok(()) => Some(Moment(name.to_owned())),
        // Somebody has the name, or its folder is gone.
        Err(Errno::EEXIST | Errno::ENOENT | Errno::ENOTDIR) => None,
        Err(errno) => {
            let e = SysError { call: "linkat", errno };
            return Err(Problem::new(e).object(Object::Path(name.into())));
        }
    };
    open_each(if moment.is_some() { name } else { path }, users)
}

/// A name that a file has for a moment.
#[derive(Debug)]
pub(super) struct Moment(pub PathBuf);

impl Drop for Moment {
    fn drop(&mut self) {
        let removed = match fs::symlink_metadata(&self.0) {
            Ok(data) if data.is_dir() => fs::remove_dir(&self.0),
            _ => fs::remove_file(&self.0),
        };
        if let Err(e) = removed {
            log::error!("cannot take the name {} away again: {e}", self.0.display());
        }
    }
}

/// Opens a file for each entry that stands for it.
pub(super) fn open_each(path: &Path, users: &[RegFileEntry]) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    users.iter().map(|user| Ok((user.id, open_for(path, user)?))).collect()
}

fn open_for(path: &Path, user: &RegFileEntry) -> Result<OwnedFd, Problem> {
    let is_fifo = user.mode.is_some_and(|mode| mode & libc::S_IFMT == libc::S_IFIFO);
    let path_only = user.flags & libc::O_PATH as u32 != 0;
    if is_fifo && !path_only {
        // Both ends, so that nobody is waited for; the fifo's kind opens the end that is needed.
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        return Ok(nix::fcntl::open(path, flags, Mode::empty()).map_err(SysError::of("open"))?);
    }
    regular::reopen(path, user)
}

/// A path in `/proc` that leads to an open file.
pub(super) fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}
