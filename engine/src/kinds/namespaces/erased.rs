//! Kinds of namespaces as the registry holds them: one type for all.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::Problem;
use crate::image::NewImages;
use crate::procfs::link::NamespaceType;

/// A kind of namespace whose type is not known.
pub trait ErasedNamespaceKind: Sync + fmt::Debug {
    /// [`NamespaceKind::NAME`].
    fn name(&self) -> &'static str;
    /// [`NamespaceKind::NOT_SAVED`].
    fn not_saved(&self) -> &'static [&'static str];
    /// [`NamespaceKind::TYPE`].
    fn namespace_type(&self) -> NamespaceType;
    /// [`NamespaceKind::look`].
    fn look(&self, cx: NamespaceDump<'_>, problems: &mut Vec<Problem>);
    /// [`NamespaceKind::dump`].
    fn dump(&self, cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem>;
    /// [`NamespaceKind::check`].
    fn check(&self, cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>);
    /// [`NamespaceKind::before_birth`].
    fn before_birth(&self, cx: NamespaceRestore<'_>) -> Result<Vec<OwnedFd>, Problem>;
    /// [`NamespaceKind::act_outside`].
    fn act_outside(&self, cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem>;
    /// [`NamespaceKind::begin`].
    fn begin(&self, cx: NamespaceRestore<'_>) -> Result<(), Problem>;
    /// [`NamespaceKind::connect_outside`].
    fn connect_outside(&self, cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem>;
    /// [`NamespaceKind::restore`].
    fn restore(&self, cx: NamespaceRestore<'_>) -> Result<(), Problem>;
}

/// A kind as the registry holds it.
pub struct Erased<K>(PhantomData<fn() -> K>);

impl<K: NamespaceKind> fmt::Debug for Erased<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::NAME)
    }
}

/// Gives each kind its line in the registry.
pub trait Erase: NamespaceKind + Sized {
    /// The kind as the registry holds it.
    const ERASED: &'static dyn ErasedNamespaceKind = &Erased::<Self>(PhantomData);
}

impl<K: NamespaceKind> Erase for K {}

impl<K: NamespaceKind> ErasedNamespaceKind for Erased<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn not_saved(&self) -> &'static [&'static str] {
        K::NOT_SAVED
    }

    fn namespace_type(&self) -> NamespaceType {
        K::TYPE
    }

    fn look(&self, cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        K::look(cx, problems);
    }

    fn dump(&self, cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        K::dump(cx, images)
    }

    fn check(&self, cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>) {
        K::check(cx, problems);
    }

    fn before_birth(&self, cx: NamespaceRestore<'_>) -> Result<Vec<OwnedFd>, Problem> {
        K::before_birth(cx)
    }

    fn act_outside(&self, cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem> {
        K::act_outside(cx, root)
    }

    fn begin(&self, cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        K::begin(cx)
    }

    fn connect_outside(&self, cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem> {
        K::connect_outside(cx, root)
    }

    fn restore(&self, cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        K::restore(cx)
    }
}
