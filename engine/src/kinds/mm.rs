//! Memory: which kind claims a mapping, what of its contents is saved, and how it is mapped again.

pub mod aio;
pub mod anonymous;
pub mod bounds;
pub mod extra;
pub mod file;
pub mod hugetlb;
pub mod memfd;
pub mod packet;
pub mod pages;
pub mod shared;
pub mod shmem;
pub mod sysv;
pub mod uprobes;
pub mod vdso;
pub mod vsyscall;

use std::os::fd::BorrowedFd;

use proto::messages::VmaEntry;

use super::files::{FileRefusal, FilesDump, FilesRestore};
use crate::error::{Class, Context as _, Explain, Object, Problem};
use crate::image::NewImages;
use crate::procfs::smaps::{SmapsVma, VmFlag};
use crate::tracee::batch::{Arg, Batch};

/// Bits of `vma_entry.status`, a part of the image format.
pub mod status {
    /// An ordinary mapping.
    pub const REGULAR: u32 = 1 << 0;
    /// The page of `vsyscall` at the end of the address space.
    pub const VSYSCALL: u32 = 1 << 2;
    /// Code of the vdso.
    pub const VDSO: u32 = 1 << 3;
    /// The area that `brk` moves.
    pub const HEAP: u32 = 1 << 5;
    /// A private mapping of a file.
    pub const FILE_PRIVATE: u32 = 1 << 6;
    /// A shared mapping of a file.
    pub const FILE_SHARED: u32 = 1 << 7;
    /// Shared anonymous memory.
    pub const ANON_SHARED: u32 = 1 << 8;
    /// Private anonymous memory.
    pub const ANON_PRIVATE: u32 = 1 << 9;
    /// A segment of System V shared memory.
    pub const SYSV: u32 = 1 << 10;
    /// Memory of a socket.
    pub const SOCKET: u32 = 1 << 11;
    /// Data of the vdso.
    pub const VVAR: u32 = 1 << 12;
    /// A ring of asynchronous I/O.
    pub const AIO_RING: u32 = 1 << 13;
    /// A mapping of a memory file.
    pub const MEMFD: u32 = 1 << 14;
    /// What the kernel maps for its breakpoints.
    pub const UPROBES: u32 = 1 << 17;
}

/// Why a mapping cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum MappingRefusal {
    /// No kind claims it.
    #[error("mappings of this kind are not supported yet")]
    NoKind,
    /// More than one does.
    #[error("several kinds claim it: {0}")]
    SeveralKinds(String),
    /// It has a property that would be lost.
    #[error("it has the property \"{0}\", which is not supported yet")]
    Property(&'static str),
    /// It has a property newer than we are.
    #[error("it has the property {0:?} of /proc/PID/smaps, which this version does not know")]
    UnknownProperty(String),
    /// The vdso of this kernel is another one.
    #[error(
        "the vdso of this kernel has another size or layout than the one it was dumped with ({0} pages here)"
    )]
    OtherVdso(u64),
}

impl Explain for MappingRefusal {
    fn class(&self) -> Class {
        if matches!(self, Self::SeveralKinds(_)) { Class::Bug } else { Class::Refused }
    }

    fn help(&self) -> Option<String> {
        matches!(self, Self::OtherVdso(_)).then(|| "restore it on the kernel version it was dumped on".into())
    }
}

/// What of a mapping's contents belongs to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Nothing: the kernel or a file has it.
    None,
    /// Pages that the process wrote to.
    OwnPages,
    /// All of it.
    AllPages,
}

/// One kind of mapping.
pub trait MappingKind: 'static {
    /// What it is called in logs, errors, the zoo and the documentation.
    const NAME: &'static str;
    /// What of it is not saved, for users to know.
    const NOT_SAVED: &'static [&'static str] = &[];

    /// Whether the mapping is of this kind. Pure; exactly one kind may claim a mapping.
    fn claims(vma: &SmapsVma) -> bool;
    /// Whether a mapping in an image is of this kind.
    fn owns(vma: &VmaEntry) -> bool;
    /// Which of its pages are saved.
    fn contents(vma: &SmapsVma) -> Contents;
    /// Completes its description: status, flags, file.
    fn dump(cx: &mut FilesDump<'_>, pid: i32, vma: &SmapsVma, entry: &mut VmaEntry) -> Result<(), Problem>;
    /// Finds what can be refused only when all mappings are known.
    fn check_dumped(_cx: &mut FilesDump<'_>, _problems: &mut Vec<Problem>) {}
    /// Writes what belongs to the kind as a whole, when all mappings are known.
    fn finish(_cx: &mut FilesDump<'_>, _images: &mut NewImages) -> Result<(), Problem> {
        Ok(())
    }
    /// Does what must come when everything is mapped in all tasks.
    fn mapped(_cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
    /// Makes what a mapping needs; `vmas` are all mappings of the tree.
    fn prepare(_cx: &mut FilesRestore<'_>, _vma: &VmaEntry, _vmas: &[&VmaEntry]) -> Result<(), Problem> {
        Ok(())
    }
    /// Adds the calls that map it again: as anonymous memory, unless a kind has something else.
    fn restore<'fd>(
        _cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        map(vma, prot, Arg::Value(u64::MAX), 0, batch);
        Ok(())
    }
}

/// A [`MappingKind`] as the registry holds it.
pub trait ErasedMappingKind: Sync {
    /// [`MappingKind::NAME`].
    fn name(&self) -> &'static str;
    /// [`MappingKind::NOT_SAVED`].
    fn not_saved(&self) -> &'static [&'static str];
    /// [`MappingKind::claims`].
    fn claims(&self, vma: &SmapsVma) -> bool;
    /// [`MappingKind::owns`].
    fn owns(&self, vma: &VmaEntry) -> bool;
    /// [`MappingKind::contents`].
    fn contents(&self, vma: &SmapsVma) -> Contents;
    /// [`MappingKind::dump`].
    fn dump(
        &self,
        cx: &mut FilesDump<'_>,
        pid: i32,
        vma: &SmapsVma,
        entry: &mut VmaEntry,
    ) -> Result<(), Problem>;
    /// [`MappingKind::check_dumped`].
    fn check_dumped(&self, cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>);
    /// [`MappingKind::finish`].
    fn finish(&self, cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem>;
    /// [`MappingKind::mapped`].
    fn mapped(&self, cx: &mut FilesRestore<'_>) -> Result<(), Problem>;
    /// [`MappingKind::prepare`].
    fn prepare(&self, cx: &mut FilesRestore<'_>, vma: &VmaEntry, vmas: &[&VmaEntry]) -> Result<(), Problem>;
    /// [`MappingKind::restore`].
    fn restore<'fd>(
        &self,
        cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem>;
}

/// Turns a [`MappingKind`] into an [`ErasedMappingKind`].
#[derive(Debug)]
pub struct Erased<K>(std::marker::PhantomData<fn() -> K>);

/// Gives every [`MappingKind`] the value that the registry lists.
pub trait Erase: MappingKind + Sized {
    /// The kind, for the registry.
    const ERASED: &'static Erased<Self> = &Erased(std::marker::PhantomData);
}

impl<K: MappingKind> Erase for K {}

impl<K: MappingKind> ErasedMappingKind for Erased<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn not_saved(&self) -> &'static [&'static str] {
        K::NOT_SAVED
    }

    fn claims(&self, vma: &SmapsVma) -> bool {
        K::claims(vma)
    }

    fn owns(&self, vma: &VmaEntry) -> bool {
        K::owns(vma)
    }

    fn contents(&self, vma: &SmapsVma) -> Contents {
        K::contents(vma)
    }

    fn dump(
        &self,
        cx: &mut FilesDump<'_>,
        pid: i32,
        vma: &SmapsVma,
        entry: &mut VmaEntry,
    ) -> Result<(), Problem> {
        K::dump(cx, pid, vma, entry)
    }

    fn check_dumped(&self, cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        K::check_dumped(cx, problems);
    }

    fn finish(&self, cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        K::finish(cx, images)
    }

    fn mapped(&self, cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        K::mapped(cx)
    }

    fn prepare(&self, cx: &mut FilesRestore<'_>, vma: &VmaEntry, vmas: &[&VmaEntry]) -> Result<(), Problem> {
        K::prepare(cx, vma, vmas)
    }

    fn restore<'fd>(
        &self,
        cx: &'fd FilesRestore<'_>,
        vma: &VmaEntry,
        prot: u32,
        batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        K::restore(cx, vma, prot, batch)
    }
}

/// The one kind that claims a mapping.
pub fn claim(vma: &SmapsVma) -> Result<&'static dyn ErasedMappingKind, MappingRefusal> {
    refuse_properties(vma)?;
    let mut claiming = super::MAPPING_KINDS.iter().filter(|kind| kind.claims(vma));
    match (claiming.next(), claiming.next()) {
        (Some(kind), None) => Ok(*kind),
        (None, _) => Err(MappingRefusal::NoKind),
        (Some(a), Some(b)) => Err(MappingRefusal::SeveralKinds(format!("{}, {}", a.name(), b.name()))),
    }
}

/// The kind of a mapping in an image.
pub fn kind_of(vma: &VmaEntry) -> Result<&'static dyn ErasedMappingKind, Problem> {
    let kind = super::MAPPING_KINDS.iter().find(|kind| kind.owns(vma));
    kind.copied().ok_or_else(|| Problem::new(MappingRefusal::NoKind).object(object(vma)))
}

/// How messages name a mapping of an image.
pub fn object(vma: &VmaEntry) -> Object {
    Object::Vma { start: vma.start, end: vma.end, name: String::new() }
}

/// Properties that nothing restores yet.
fn refuse_properties(vma: &SmapsVma) -> Result<(), MappingRefusal> {
    let refused = [
        (VmFlag::UffdMissing, "registered with userfaultfd"),
        (VmFlag::UffdWriteProtect, "registered with userfaultfd"),
        (VmFlag::UffdMinor, "registered with userfaultfd"),
        (VmFlag::ShadowStack, "shadow stack"),
        (VmFlag::Sync, "MAP_SYNC"),
    ];
    if let Some((_, name)) = refused.iter().find(|(flag, _)| vma.flags.has(*flag)) {
        return Err(MappingRefusal::Property(name));
    }
    // The kernel has a key of its own for what may only be executed, and gives it again.
    let perms = &vma.vma.perms;
    if vma.protection_key != 0 && (perms.read || perms.write || !perms.exec) {
        return Err(MappingRefusal::Property("protection key"));
    }
    match vma.flags.unknown().first() {
        Some(letters) => Err(MappingRefusal::UnknownProperty(letters.escape_ascii().to_string())),
        None => Ok(()),
    }
}

/// Pieces of advice that a mapping shows, and that restore gives again: bit N of `vma_entry.madv` is `madvise` advice N.
const ADVICE: [(VmFlag, i32); 8] = [
    (VmFlag::Random, libc::MADV_RANDOM),
    (VmFlag::Sequential, libc::MADV_SEQUENTIAL),
    (VmFlag::DontCopy, libc::MADV_DONTFORK),
    (VmFlag::Mergeable, libc::MADV_MERGEABLE),
    (VmFlag::HugePage, libc::MADV_HUGEPAGE),
    (VmFlag::NoHugePage, libc::MADV_NOHUGEPAGE),
    (VmFlag::DontDump, libc::MADV_DONTDUMP),
    (VmFlag::WipeOnFork, libc::MADV_WIPEONFORK),
];

/// What all kinds describe alike.
pub fn describe(vma: &SmapsVma) -> VmaEntry {
    let perms = vma.vma.perms;
    let prot =
        [(perms.read, libc::PROT_READ), (perms.write, libc::PROT_WRITE), (perms.exec, libc::PROT_EXEC)];
    let prot = prot.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | *bit as u32);
    let mut flags = if perms.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    if vma.flags.has(VmFlag::Droppable) {
        flags = libc::MAP_DROPPABLE;
    }
    if vma.flags.has(VmFlag::GrowsDown) {
        flags |= libc::MAP_GROWSDOWN;
    }
    if vma.flags.has(VmFlag::NoReserve) {
        flags |= libc::MAP_NORESERVE;
    }
    if vma.flags.has(VmFlag::Locked) {
        flags |= libc::MAP_LOCKED;
    }
    let madv =
        ADVICE.iter().filter(|(flag, _)| vma.flags.has(*flag)).fold(0, |all, (_, bit)| all | 1_u64 << *bit);
    VmaEntry {
        start: vma.vma.start,
        end: vma.vma.end,
        pgoff: vma.vma.offset,
        shmid: 0,
        prot,
        flags: flags as u32,
        status: 0,
        fd: -1,
        madv: (madv != 0).then_some(madv),
        fdflags: None,
    }
}

/// Adds the `mmap` of a mapping, at its address and nowhere else.
pub fn map(vma: &VmaEntry, prot: u32, fd: Arg, offset: u64, batch: &mut Batch<'_>) {
    let flags = vma.flags & !(libc::MAP_LOCKED as u32) | libc::MAP_FIXED_NOREPLACE as u32;
    let args =
        &[vma.start.into(), (vma.end - vma.start).into(), prot.into(), flags.into(), fd, offset.into()];
    batch.call("mmap", libc::SYS_mmap, args);
}

/// Adds the `mmap` of a mapping of this file.
pub fn map_file<'fd>(vma: &VmaEntry, prot: u32, file: BorrowedFd<'fd>, batch: &mut Batch<'fd>) {
    let fd = batch.fd(file);
    map(vma, prot, fd, vma.pgoff, batch);
    batch.call("close", libc::SYS_close, &[fd]);
}

/// Adds the `mmap` of a mapping of the open file with the id that it names.
pub fn map_opened<'fd>(
    cx: &'fd FilesRestore<'_>,
    vma: &VmaEntry,
    prot: u32,
    batch: &mut Batch<'fd>,
) -> Result<(), Problem> {
    let id = vma.shmid as u32;
    let file = cx.opened(id).ok_or(FileRefusal::NoSuchId(id)).about(|| object(vma))?;
    map_file(vma, prot, file, batch);
    Ok(())
}

/// Pieces of advice that decide which pages a mapping gets.
const ON_PAGES: [i32; 2] = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];

/// Adds the advice that must come before a mapping has pages.
pub fn advise_before_pages(vma: &VmaEntry, batch: &mut Batch<'_>) {
    add_advice(vma, batch, |advice| ON_PAGES.contains(&advice));
}

fn add_advice(vma: &VmaEntry, batch: &mut Batch<'_>, wanted: impl Fn(i32) -> bool) {
    let given = vma.madv.unwrap_or(0);
    for (_, advice) in ADVICE.iter().filter(|(_, advice)| given & (1 << advice) != 0 && wanted(*advice)) {
        batch.call("madvise", libc::SYS_madvise, crate::args![vma.start, vma.end - vma.start, *advice]);
    }
}

/// Adds what comes after a mapping has its contents: protection, the other advice, and locks.
pub fn finish(vma: &VmaEntry, mapped_with: u32, mlock_flags: i32, batch: &mut Batch<'_>) {
    let len = vma.end - vma.start;
    if vma.prot != mapped_with {
        batch.call("mprotect", libc::SYS_mprotect, crate::args![vma.start, len, vma.prot]);
    }
    add_advice(vma, batch, |advice| !ON_PAGES.contains(&advice));
    if vma.flags & libc::MAP_LOCKED as u32 != 0 {
        if mlock_flags == 0 {
            batch.call("mlock", libc::SYS_mlock, crate::args![vma.start, len]);
        } else {
            batch.call("mlock2", libc::SYS_mlock2, crate::args![vma.start, len, mlock_flags]);
        }
    }
}
