//! System V shared memory (`shmget`, `shmat`) in the ipc namespace that we are in, too.
//!
//! A mapping shows as `/SYSV00000000 (deleted)`, with the segment's id as its inode number; `shmctl` tells the rest, among
//! it how many mappings there are: if those of the tree are fewer, somebody outside has one, whom a restore would lose. A
//! segment outlives its users, so that of a tree that was killed may still be there, and is taken again. Its id comes back
//! by `/proc/sys/kernel/shm_next_id`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use proto::messages::{IpcDescEntry, IpcShmEntry, VmaEntry};

use super::{Contents, MappingKind, hugetlb, pages, shared, status};
use crate::args;
use crate::dump::inspect::read_proc;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::files::{FilesDump, FilesRestore};
use crate::kinds::namespaces;
use crate::options::Inside;
use crate::procfs;
use crate::procfs::link::{Link, NamespaceType, parse};
use crate::procfs::maps::Vma;
use crate::procfs::smaps::{SmapsVma, VmFlag};
use crate::sys::ipc;
use crate::task_spaces::TaskSpaces;
use crate::tracee::batch::Batch;
use crate::tracee::freeze::task_name;
use crate::visit::{self, Visit};

/// Mappings of segments.
#[derive(Debug)]
pub struct SysvShm;

/// Why a segment cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum SysvRefusal {
    /// Others have it, too.
    #[error("it is shared with {0}, outside of the tree")]
    Outside(String),
    /// Only a part of it is mapped.
    #[error("only a part of the segment is mapped here, which is not supported yet")]
    Part,
    /// The id is taken.
    #[error("another segment of System V shared memory has its id, or its key")]
    Taken,
    /// It is there, and in use.
    #[error("the segment is there, and in use by {0} mappings")]
    InUse(u64),
    /// A damaged set.
    #[error("the image set has no segment {0}")]
    NoSegment(i32),
}

impl Explain for SysvRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Outside(_) => Some("dump all of its users together, as one tree".into()),
            Self::Taken | Self::InUse(_) => Some(
                "end its users and remove it (ipcrm -m), or restore in an ipc namespace of its own".into(),
            ),
            Self::Part | Self::NoSegment(_) => None,
        }
    }
}

/// A segment, and what of it was seen.
#[derive(Debug)]
struct Segment {
    entry: IpcShmEntry,
    attached: u64,
    seen: u64,
    file: File,
    page_size: u64,
    object: Object,
}

/// Which segment: its id, and that of its ipc namespace, if it is not the root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    space: Option<u32>,
    id: i32,
}

impl Key {
    /// As a mapping's image has it.
    fn shmid(self) -> u64 {
        u64::from(self.space.unwrap_or(0)) << 32 | u64::from(self.id.cast_unsigned())
    }

    /// From a mapping's image.
    fn of(shmid: u64) -> Self {
        let space = Some((shmid >> 32) as u32).filter(|space| *space != 0);
        Self { space, id: shmid as u32 as i32 }
    }

    /// The number of its contents, which is above those of inodes.
    fn contents(self) -> u64 {
        let Self { space, id } = self;
        u64::from(space.unwrap_or(0)) << 33 | CONTENTS | u64::from(id.cast_unsigned())
    }
}

#[derive(Debug, Default)]
struct Dumped(BTreeMap<Key, Segment>);

/// Segments made again.
#[derive(Debug, Default)]
struct Restored {
    made: BTreeMap<Key, Made>,
}

/// A segment that nobody uses yet. If it stays so, it goes away again.
#[derive(Debug)]
struct Made {
    id: i32,
    /// Its ipc namespace, if it is not the root's.
    space: Option<File>,
    /// It was not there before.
    is_new: bool,
    /// It goes away with its last user.
    removed: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.is_new
            && let Err(e) = self.remove()
        {
            log::warn!("segment {} of System V shared memory stays behind: {e}", self.id);
        }
    }
}

impl Made {
    fn remove(&self) -> Result<(), SysError> {
        let _there = self.space.as_ref().map(|space| Visit::pay(space, NamespaceType::Ipc)).transpose()?;
        ipc::shm_remove(self.id)
    }
}

/// Contents of segments have numbers of their own, above those of inodes.
const CONTENTS: u64 = 1 << 32;
/// `SHM_DEST` of `include/uapi/linux/shm.h`: removed, and there only as long as it is used.
const SHM_DEST: u32 = 0o1000;

impl MappingKind for SysvShm {
    const NAME: &'static str = "sysv-shm";
    const NOT_SAVED: &'static [&'static str] = &[
        "creator, and times of a segment",
        "SHM_LOCK",
        "of an ipc namespace that others are in, segments that no task has attached",
    ];

    fn claims(vma: &SmapsVma) -> bool {
        is_segment(&vma.vma)
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::SYSV != 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::None
    }

    fn dump(cx: &mut FilesDump<'_>, pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem> {
        let id = vma.vma.inode as i32;
        entry.status = status::REGULAR | status::ANON_SHARED | status::SYSV;
        entry.flags |= libc::MAP_ANONYMOUS as u32;
        let key = Key { space: cx.state::<TaskSpaces>().ipc_of(pid), id };
        entry.shmid = key.shmid();
        let writable = vma.flags.has(VmFlag::MayWrite);
        entry.fdflags = Some(if writable { libc::O_RDWR } else { libc::O_RDONLY } as u32);
        let there = match key.space {
            Some(space) => cx.state::<TaskSpaces>().visit(NamespaceType::Ipc, space)?,
            None => None,
        };
        let segment = match cx.state::<Dumped>().0.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(look(id, pid, vma)?),
        };
        drop(there);
        segment.seen += 1;
        let size = segment.entry.size.next_multiple_of(segment.page_size);
        if vma.vma.offset != 0 || vma.vma.len() != size {
            return Err(Problem::new(SysvRefusal::Part));
        }
        Ok(())
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        for (key, segment) in &cx.state::<Dumped>().0 {
            if segment.attached > segment.seen {
                let refusal = SysvRefusal::Outside(users_outside(key.id, segment.attached - segment.seen));
                problems.push(Problem::new(refusal).object(segment.object.clone()));
            }
        }
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let mut segments = std::mem::take(cx.state::<Dumped>()).0;
        let home = namespace(&cx.options.inside, None);
        let mut attached = Vec::new();
        let own = cx.options.inside.has(NamespaceType::Ipc).then_some(None);
        let spaces = cx.state::<TaskSpaces>();
        for space in own.into_iter().chain(spaces.all_ipc().into_iter().map(Some)) {
            let _there = space.map(|space| spaces.visit(NamespaceType::Ipc, space)).transpose()?;
            for id in namespaces::ipc::ids("shm")? {
                if let Entry::Vacant(place) = segments.entry(Key { space, id }) {
                    let (ours, segment) = look_at_unused(id).while_trying_to("look at its shared memory")?;
                    attached.push(ours);
                    place.insert(segment);
                }
            }
        }
        let mut entries: BTreeMap<u64, Vec<IpcShmEntry>> = BTreeMap::new();
        for (key, segment) in segments {
            shared::write(images, key.contents(), &segment.file, segment.page_size)
                .while_trying_to("write System V shared memory")?;
            entries.entry(key.space.map_or(home, u64::from)).or_default().push(segment.entry);
        }
        let mut all = entries.iter();
        all.try_for_each(|(space, entries)| images.write(&proto::catalogue::IPCNS_SHM, *space, entries))
    }

    fn prepare(cx: &mut FilesRestore<'_>, vma: &VmaEntry, _vmas: &[&VmaEntry]) -> Result<(), Problem> {
        let key = Key::of(vma.shmid);
        if cx.state::<Restored>().made.contains_key(&key) {
            return Ok(());
        }
        let namespace = namespace(&cx.options.inside, key.space);
        let entries: Vec<IpcShmEntry> = cx.images.read(&proto::catalogue::IPCNS_SHM, namespace)?;
        let entry = entries.into_iter().find(|entry| entry.desc.id == key.id as u32);
        let entry = entry.ok_or_else(|| Problem::new(SysvRefusal::NoSegment(key.id)))?;
        let step = "make System V shared memory";
        let made = make(cx, key, &entry).while_trying_to(step)?;
        cx.state::<Restored>().made.insert(key, made);
        Ok(())
    }

    fn restore<'fd>(
        _cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        let writable = vma.fdflags.is_none_or(|flags| flags & libc::O_RDWR as u32 != 0);
        let flags = if writable { 0 } else { libc::SHM_RDONLY };
        batch.call("shmat", libc::SYS_shmat, args![Key::of(vma.shmid).id, vma.start, flags]);
        let attached = (libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 }) as u32;
        if prot != attached {
            let args = args![vma.start, vma.end - vma.start, prot];
            batch.call("mprotect", libc::SYS_mprotect, args);
        }
        Ok(())
    }

    fn mapped(cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        let step = "make System V shared memory";
        if cx.options.inside.has(NamespaceType::Ipc) {
            make_unused(cx, None).while_trying_to(step)?;
        }
        for space in cx.members.beside_root(NamespaceType::Ipc) {
            make_unused(cx, Some(space)).while_trying_to(step)?;
        }
        for mut made in std::mem::take(&mut cx.state::<Restored>().made).into_values() {
            made.is_new = false;
            if made.removed {
                made.remove()?;
            }
        }
        Ok(())
    }
}

/// The ipc namespace's id in images; that of the root's unless it is another one.
fn namespace(inside: &Inside, space: Option<u32>) -> u64 {
    space.or(namespaces::ids_of_tree(&inside.types).ipc_ns_id).unwrap_or_default().into()
}

/// A segment that no task has attached, for as long as we have.
fn look_at_unused(id: i32) -> Result<(ipc::Attached, Segment), Problem> {
    let ours = ipc::Attached::new(id)?;
    let start = ours.start();
    let smaps = read_proc("/proc/self/smaps".into(), procfs::smaps::parse)?;
    let vma = smaps.iter().find(|vma| vma.vma.start == start);
    let vma = vma.ok_or_else(|| Problem::new(SysvRefusal::NoSegment(id)))?;
    let segment = look(id, std::process::id() as i32, vma)?;
    Ok((ours, segment))
}

/// Makes the segments of an ipc namespace of the tree that no task has attached.
fn make_unused(cx: &mut FilesRestore<'_>, space: Option<u32>) -> Result<(), Problem> {
    let (image, namespace) = (&proto::catalogue::IPCNS_SHM, namespace(&cx.options.inside, space));
    if !cx.images.has(image, namespace) {
        return Ok(());
    }
    let entries: Vec<IpcShmEntry> = cx.images.read(image, namespace)?;
    for entry in entries {
        let key = Key { space, id: entry.desc.id as i32 };
        // A segment that was removed has gone with its last user, but for one that the tree still has.
        if !cx.state::<Restored>().made.contains_key(&key) && entry.desc.mode & SHM_DEST == 0 {
            let made = make(cx, key, &entry)?;
            cx.state::<Restored>().made.insert(key, made);
        }
    }
    Ok(())
}

fn is_segment(vma: &Vma) -> bool {
    vma.perms.shared && matches!(parse(&vma.path), Link::SysvShm(_))
}

/// Asks the kernel about a segment.
fn look(id: i32, pid: i32, vma: &SmapsVma) -> Result<Segment, Problem> {
    let stat = ipc::shm_stat(id)?;
    let perm = stat.shm_perm;
    let huge = hugetlb::flags(vma);
    Ok(Segment {
        entry: IpcShmEntry {
            desc: IpcDescEntry {
                key: perm.__key as u32,
                uid: perm.uid,
                gid: perm.gid,
                cuid: perm.cuid,
                cgid: perm.cgid,
                mode: perm.mode.into(),
                id: id as u32,
            },
            size: stat.shm_segsz as u64,
            in_pagemaps: Some(true),
            hugetlb_flag: (huge != 0).then(|| hugetlb::size_flag(vma.page_size)),
        },
        attached: stat.shm_nattch,
        seen: 0,
        file: shared::open(pid, vma.vma.start, vma.vma.end)?,
        page_size: vma.page_size,
        object: Object::Vma {
            start: vma.vma.start,
            end: vma.vma.end,
            name: String::from_utf8_lossy(&vma.vma.path).into_owned(),
        },
    })
}

/// Who has a segment mapped that is in no tree of ours: those whose mappings we may see, or at least how many.
fn users_outside(id: i32, missing: u64) -> String {
    let mut users = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Tasks of the tree are stopped, in a way that nobody else is; they are traced by us.
        let status = std::fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
        let tracer = procfs::status::parse(&status).map_or(0, |status| status.tracer_pid);
        if tracer == std::process::id() as i32 {
            continue;
        }
        let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        let vmas = procfs::maps::parse(&maps).unwrap_or_default();
        if vmas.iter().any(|vma| is_segment(vma) && vma.inode == id as u64)
            && let Some(name) = task_name(pid)
        {
            users.push(name.to_string());
        }
    }
    if users.is_empty() { format!("{missing} other mappings") } else { users.join(", ") }
}

/// Makes a segment with its id and contents, or takes the one that is still there.
fn make(cx: &FilesRestore<'_>, key: Key, entry: &IpcShmEntry) -> Result<Made, Problem> {
    let id = key.id;
    let there = cx.members.visit(NamespaceType::Ipc, key.space)?;
    let space = there.as_ref().map(|_| visit::here(NamespaceType::Ipc)).transpose()?;
    let desc = &entry.desc;
    let huge = entry.hugetlb_flag.filter(|flag| *flag != 0);
    let page_size = huge.map_or(pages::PAGE, |flag| hugetlb::page_size(flag | libc::MAP_HUGETLB as u32));
    let old = ipc::shm_stat(id).ok();
    if let Some(old) = &old {
        if old.shm_nattch > 0 {
            return Err(Problem::new(SysvRefusal::InUse(old.shm_nattch)));
        }
        if old.shm_perm.__key as u32 != desc.key || old.shm_segsz as u64 != entry.size {
            return Err(Problem::new(SysvRefusal::Taken));
        }
    } else {
        let tunables = cx.options.inside.tunables.as_deref().unwrap_or(Path::new("/proc/sys"));
        let next = std::fs::write(tunables.join("kernel/shm_next_id"), id.to_string());
        next.map_err(SysError::io("write(/proc/sys/kernel/shm_next_id)"))?;
        let flags = (desc.mode & 0o777) as i32 | huge.map_or(0, |flag| libc::SHM_HUGETLB | flag as i32);
        match ipc::shm_create(desc.key as i32, entry.size as usize, flags) {
            Ok(made) if made == id => {}
            Ok(made) => {
                ipc::shm_remove(made)?;
                return Err(Problem::new(SysvRefusal::Taken));
            }
            Err(SysError { errno: Errno::EEXIST, .. }) => return Err(Problem::new(SysvRefusal::Taken)),
            Err(e) => return Err(e.into()),
        }
    }
    let made = Made { id, space, is_new: old.is_none(), removed: desc.mode & SHM_DEST != 0 };
    let attached = ipc::Attached::new(id)?;
    let start = attached.start();
    let end = start + entry.size.next_multiple_of(page_size);
    let link = format!("/proc/self/map_files/{start:x}-{end:x}");
    let file = File::options().read(true).write(true).open(link);
    let file = file.map_err(SysError::io("open(/proc/self/map_files)"))?;
    let size = entry.size.next_multiple_of(page_size);
    if old.is_some() && page_size == pages::PAGE {
        // It may have changed since the dump.
        for len in [0, size] {
            file.set_len(len).map_err(SysError::io("ftruncate"))?;
        }
    }
    shared::fill(cx.images, key.contents(), file.as_fd(), size, page_size)?;
    ipc::shm_set(id, desc.uid, desc.gid, desc.mode & 0o777)?;
    Ok(made)
}
