//! Kinds of files as the registry holds them: without their types.

use std::os::fd::OwnedFd;

use proto::messages::{FdTypes, FileEntry};

use super::{FdFacts, FileKind, FileRefusal, FilesDump, FilesRestore, InTask, RunBatch};
use crate::error::Problem;
use crate::image::NewImages;

/// A [`FileKind`] as the registry holds it.
pub trait ErasedFileKind: Sync {
    /// [`FileKind::NAME`].
    fn name(&self) -> &'static str;
    /// [`FileKind::NOT_SAVED`].
    fn not_saved(&self) -> &'static [&'static str];
    /// [`FileKind::TYPE`].
    fn file_type(&self) -> FdTypes;
    /// [`FileKind::claims`].
    fn claims(&self, fd: &FdFacts<'_>) -> bool;
    /// [`FileKind::dump`], as a whole entry.
    fn dump(&self, cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<FileEntry, Problem>;
    /// [`FileKind::explore`].
    fn explore(&self, cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>);
    /// [`FileKind::check_dumped`].
    fn check_dumped(&self, cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>);
    /// [`FileKind::finish`].
    fn finish(&self, cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem>;
    /// [`FileKind::leave`].
    fn leave(&self, cx: &mut FilesDump<'_>) -> Result<(), Problem>;
    /// [`FileKind::check`].
    fn check(&self, cx: &FilesRestore<'_>, entry: &FileEntry) -> Result<(), Problem>;
    /// [`FileKind::prepare`].
    fn prepare(&self, cx: &mut FilesRestore<'_>, tasks: &mut dyn InTask) -> Result<(), Problem>;
    /// [`FileKind::name`].
    fn name_of(&self, entry: &FileEntry) -> Option<u32>;
    /// [`FileKind::begin_session`].
    fn begin_session(
        &self,
        cx: &mut FilesRestore<'_>,
        session: i32,
        leader: &mut RunBatch<'_>,
    ) -> Result<(), Problem>;
    /// [`FileKind::restore`].
    fn restore(&self, cx: &mut FilesRestore<'_>, entry: &FileEntry) -> Result<OwnedFd, Problem>;
    /// [`FileKind::release`].
    fn release(&self, cx: &mut FilesRestore<'_>) -> Result<(), Problem>;
    /// [`FileKind::connect`].
    fn connect(
        &self,
        cx: &mut FilesRestore<'_>,
        tasks: &mut dyn InTask,
        entry: &FileEntry,
    ) -> Result<(), Problem>;
    /// [`FileKind::settle`].
    fn settle(&self, cx: &mut FilesRestore<'_>) -> Result<(), Problem>;
}

/// Turns a [`FileKind`] into an [`ErasedFileKind`].
#[derive(Debug)]
pub struct Erased<K>(std::marker::PhantomData<fn() -> K>);

impl<K> Erased<K> {
    /// The only value.
    pub const NEW: Self = Self(std::marker::PhantomData);
}

/// Gives every [`FileKind`] the value that the registry lists.
pub trait Erase: FileKind + Sized {
    /// The kind, for the registry.
    const ERASED: &'static Erased<Self> = &Erased::NEW;
}

impl<K: FileKind> Erase for K {}

/// The kind's member of an entry of its type.
fn image_of<K: FileKind>(entry: &FileEntry) -> Result<K::Image, Problem> {
    let missing = || Problem::new(FileRefusal::NoKindOfType(format!("{} without its details", K::NAME)));
    K::member(&mut entry.clone()).take().map(|image| *image).ok_or_else(missing)
}

impl<K: FileKind> ErasedFileKind for Erased<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn not_saved(&self) -> &'static [&'static str] {
        K::NOT_SAVED
    }

    fn file_type(&self) -> FdTypes {
        K::TYPE
    }

    fn claims(&self, fd: &FdFacts<'_>) -> bool {
        K::claims(fd)
    }

    fn dump(&self, cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<FileEntry, Problem> {
        let mut entry = FileEntry { r#type: K::TYPE.into(), id, ..FileEntry::default() };
        *K::member(&mut entry) = Some(Box::new(K::dump(cx, fd, id)?));
        Ok(entry)
    }

    fn explore(&self, cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        K::explore(cx, problems);
    }

    fn check_dumped(&self, cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        K::check_dumped(cx, problems);
    }

    fn finish(&self, cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        K::finish(cx, images)
    }

    fn leave(&self, cx: &mut FilesDump<'_>) -> Result<(), Problem> {
        K::leave(cx)
    }

    fn check(&self, cx: &FilesRestore<'_>, entry: &FileEntry) -> Result<(), Problem> {
        K::check(cx, &image_of::<K>(entry)?)
    }

    fn prepare(&self, cx: &mut FilesRestore<'_>, tasks: &mut dyn InTask) -> Result<(), Problem> {
        K::prepare(cx, tasks)
    }

    fn name_of(&self, entry: &FileEntry) -> Option<u32> {
        K::name(&image_of::<K>(entry).ok()?)
    }

    fn begin_session(
        &self,
        cx: &mut FilesRestore<'_>,
        session: i32,
        leader: &mut RunBatch<'_>,
    ) -> Result<(), Problem> {
        K::begin_session(cx, session, leader)
    }

    fn restore(&self, cx: &mut FilesRestore<'_>, entry: &FileEntry) -> Result<OwnedFd, Problem> {
        K::restore(cx, &image_of::<K>(entry)?)
    }

    fn release(&self, cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        K::release(cx)
    }

    fn connect(
        &self,
        cx: &mut FilesRestore<'_>,
        tasks: &mut dyn InTask,
        entry: &FileEntry,
    ) -> Result<(), Problem> {
        K::connect(cx, tasks, &image_of::<K>(entry)?)
    }

    fn settle(&self, cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        K::settle(cx)
    }
}
