//! Memory files (`memfd_create(2)`): files without a name in any directory, with seals.
//!
//! A description refers to an inode, of which there may be several descriptions, and mappings. Name, size, mode and owner
//! are seen from outside; seals are asked of a duplicate. Seals come back last: a file may have been sealed against
//! future writing while somebody had it mapped for that.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::memfd::MFdFlags;
use nix::sys::stat::Mode;
use proto::messages::{FdTypes, FileEntry, FownEntry, MemfdFileEntry, MemfdInodeEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, InTask, set_common};
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::mm::pages::PAGE;
use crate::kinds::mm::{hugetlb, shared};
use crate::procfs::link::{Link, parse};
use crate::sys::memory;

/// Memory files.
#[derive(Debug)]
pub struct Memfd;

/// Why a memory file cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum MemfdRefusal {
    /// Images hold names as UTF-8.
    #[error("its name is not UTF-8, which images cannot hold")]
    NotUtf8,
    /// A damaged set.
    #[error("the image set has no memory file with number {0}")]
    NoInode(u32),
}

impl Explain for MemfdRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }
}

/// Inodes of the tree, by device and number.
#[derive(Debug, Default)]
struct Dumped {
    inodes: BTreeMap<(u64, u64), Inode>,
    /// Files that only mappings have, by inode and flags.
    mapped: BTreeMap<(u32, i32), u32>,
}

#[derive(Debug)]
struct Inode {
    entry: MemfdInodeEntry,
    file: File,
    page_size: u64,
}

/// Inodes made again, and whether they have their seals.
#[derive(Debug, Default)]
struct Restored(BTreeMap<u64, (OwnedFd, Option<u32>)>);

/// Contents of memory files have numbers of their own, above those of inodes.
const FIRST_CONTENTS: u32 = 0x8000_0000;

impl FileKind for Memfd {
    const NAME: &'static str = "memfd";
    const NOT_SAVED: &'static [&'static str] = &["times of the file", "inode numbers"];
    const TYPE: FdTypes = FdTypes::Memfd;
    type Image = MemfdFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        matches!(fd.link(), Link::Memfd(_)) && fd.file_type() == libc::S_IFREG && !fd.is_path_only()
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<MemfdFileEntry>> {
        &mut entry.memfd
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<MemfdFileEntry, Problem> {
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let path = format!("/proc/{}/fd/{}", fd.pid, fd.fd);
        let inode_id = inode(cx, &path, &fd.link)?;
        Ok(MemfdFileEntry { id, flags: fd.flags() as u32, pos: fd.info.pos as u64, fown, inode_id })
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let inodes = std::mem::take(&mut cx.state::<Dumped>().inodes);
        for inode in inodes.values() {
            shared::write(images, inode.entry.shmid.into(), &inode.file, inode.page_size)
                .while_trying_to("write the contents of a memory file")?;
        }
        let entries: Vec<MemfdInodeEntry> = inodes.into_values().map(|inode| inode.entry).collect();
        if entries.is_empty() { Ok(()) } else { images.write(&proto::catalogue::MEMFD_INODE, 0, &entries) }
    }

    fn check(cx: &FilesRestore<'_>, image: &MemfdFileEntry) -> Result<(), Problem> {
        entry_of(cx, image.inode_id).map(drop)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &MemfdFileEntry) -> Result<OwnedFd, Problem> {
        let entry = entry_of(cx, image.inode_id)?;
        if !cx.state::<Restored>().0.contains_key(&entry.inode_id) {
            let made = make(cx, &entry).while_trying_to("make a memory file")?;
            cx.state::<Restored>().0.insert(entry.inode_id, (made, Some(entry.seals)));
        }
        let inode = cx.state::<Restored>().0.get(&entry.inode_id);
        let (inode, _) = inode.ok_or_else(|| Problem::new(MemfdRefusal::NoInode(image.inode_id)))?;
        let path = format!("/proc/self/fd/{}", inode.as_raw_fd());
        let access = OFlag::from_bits_retain(image.flags as i32 & libc::O_ACCMODE);
        let fd = nix::fcntl::open(path.as_str(), access | OFlag::O_CLOEXEC, Mode::empty());
        let fd = fd.map_err(SysError::of("open"))?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        if image.pos != 0 {
            nix::unistd::lseek(fd.as_fd(), image.pos as i64, nix::unistd::Whence::SeekSet)
                .map_err(SysError::of("lseek"))?;
        }
        Ok(fd)
    }

    fn connect(
        cx: &mut FilesRestore<'_>,
        _tasks: &mut dyn InTask,
        image: &MemfdFileEntry,
    ) -> Result<(), Problem> {
        let inode = cx.state::<Restored>().0.get_mut(&image.inode_id.into());
        if let Some((inode, seals)) = inode
            && let Some(seals) = seals.take()
        {
            memory::add_seals(inode.as_fd(), seals)?;
        }
        Ok(())
    }
}

/// The number of an inode, described when it is met for the first time; `path` opens it, `link` is its text.
fn inode(cx: &mut FilesDump<'_>, path: &str, link: &[u8]) -> Result<u32, Problem> {
    let stat = nix::sys::stat::stat(path).map_err(SysError::of("stat"))?;
    let known = cx.state::<Dumped>();
    if let Some(inode) = known.inodes.get(&(stat.st_dev, stat.st_ino)) {
        return Ok(inode.entry.inode_id as u32);
    }
    let Link::Memfd(name) = parse(link) else { return Err(Problem::new(MemfdRefusal::NotUtf8)) };
    let name = std::str::from_utf8(name).ok().ok_or_else(|| Problem::new(MemfdRefusal::NotUtf8))?;
    let file = File::open(path).map_err(SysError::io("open"))?;
    let inode_id = known.inodes.len() as u32 + 1;
    // What stat calls the best size for input and output is the page size there.
    let page_size = if memory::is_hugetlbfs(&file)? { stat.st_blksize as u64 } else { PAGE };
    let entry = MemfdInodeEntry {
        name: name.to_owned(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        shmid: FIRST_CONTENTS + inode_id,
        seals: memory::seals(file.as_fd())?,
        inode_id: inode_id.into(),
        hugetlb_flag: (page_size > PAGE).then(|| hugetlb::size_flag(page_size)),
        mode: Some(stat.st_mode & 0o7777),
    };
    known.inodes.insert((stat.st_dev, stat.st_ino), Inode { entry, file, page_size });
    Ok(inode_id)
}

/// The id of a file that is known by a mapping alone.
pub fn add_mapped(cx: &mut FilesDump<'_>, path: &str, flags: i32) -> Result<u32, Problem> {
    use std::os::unix::ffi::OsStrExt as _;
    let link = nix::fcntl::readlink(path).map_err(SysError::of("readlink(/proc/PID/map_files)"))?;
    let inode_id = inode(cx, path, link.as_bytes())?;
    if let Some(id) = cx.state::<Dumped>().mapped.get(&(inode_id, flags)) {
        return Ok(*id);
    }
    let id = cx.add_entry(|id| FileEntry {
        r#type: FdTypes::Memfd.into(),
        id,
        memfd: Some(Box::new(MemfdFileEntry {
            id,
            flags: flags as u32,
            pos: 0,
            fown: FownEntry::default(),
            inode_id,
        })),
        ..FileEntry::default()
    });
    cx.state::<Dumped>().mapped.insert((inode_id, flags), id);
    Ok(id)
}

fn entry_of(cx: &FilesRestore<'_>, inode_id: u32) -> Result<MemfdInodeEntry, Problem> {
    let inodes: Vec<MemfdInodeEntry> = cx.images.read(&proto::catalogue::MEMFD_INODE, 0)?;
    let inode = inodes.into_iter().find(|inode| inode.inode_id == u64::from(inode_id));
    inode.ok_or_else(|| Problem::new(MemfdRefusal::NoInode(inode_id)))
}

/// Makes an inode with its contents, and without its seals.
fn make(cx: &FilesRestore<'_>, entry: &MemfdInodeEntry) -> Result<OwnedFd, Problem> {
    let mut flags = MFdFlags::MFD_CLOEXEC;
    if entry.seals != libc::F_SEAL_SEAL as u32 {
        flags |= MFdFlags::MFD_ALLOW_SEALING;
    }
    let mut page_size = PAGE;
    if let Some(size) = entry.hugetlb_flag.filter(|flag| *flag != 0) {
        flags |= MFdFlags::MFD_HUGETLB | MFdFlags::from_bits_retain(size);
        page_size = hugetlb::page_size(size | libc::MAP_HUGETLB as u32);
    }
    let fd =
        nix::sys::memfd::memfd_create(entry.name.as_str(), flags).map_err(SysError::of("memfd_create"))?;
    nix::unistd::ftruncate(&fd, entry.size as i64).map_err(SysError::of("ftruncate"))?;
    shared::fill(cx.images, entry.shmid.into(), fd.as_fd(), entry.size, page_size)?;
    if let Some(mode) = entry.mode {
        let mode = Mode::from_bits_truncate(mode);
        nix::sys::stat::fchmod(&fd, mode).map_err(SysError::of("fchmod"))?;
    }
    let (uid, gid) = (nix::unistd::Uid::from_raw(entry.uid), nix::unistd::Gid::from_raw(entry.gid));
    nix::unistd::fchown(&fd, Some(uid), Some(gid)).map_err(SysError::of("fchown"))?;
    Ok(fd)
}
