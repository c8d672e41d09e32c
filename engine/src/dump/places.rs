//! Where the kernel has what tasks have, and a few of its numbers.
//!
//! Tasks that are forks of each other have much in common. What is in one place is one thing, as long as all that have it
//! are stopped: so what `/proc` says of it is read once, and `kcmp(2)` need not be asked. Of numbers nobody has to know
//! what they mean: where a file of `/proc` tells nothing but one number, it says the same of all tasks that have the same.
//!
//! All of it comes from a program that the kernel runs (`walk.rs`). Without it there are no places, and everything is read.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::inspect::PathLink;
use super::namespace_links::Links;
use super::walk::{Field, Step};
use crate::procfs::limits::Limits;

/// Descriptors of which it is seen where they lead; a table has room for as many at least (`NR_OPEN_DEFAULT` of
/// include/linux/fdtable.h).
const FIRST_FDS: usize = 64;
/// Words of bits, one for each descriptor, that are looked at: a larger table is not.
const BITMAP: usize = 16;

/// Where a task has things, and what it has.
#[derive(Debug, Clone, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Places {
    /// Its address space.
    pub vm: u64,
    /// Its descriptor table.
    pub files: u64,
    /// Its directories and umask.
    pub fs: u64,
    /// Its signal handlers.
    pub sighand: u64,
    /// Not where, but what: flags that further mappings of it get (`mlockall(MCL_FUTURE)` among others).
    pub flags_later: u64,
    namespaces: Namespaces,
    cgroups: u64,
    exe: u64,
    cwd: [u64; 2],
    root: [u64; 2],
    oom_score_adj: u64,
    loginuid: u64,
    mm_flags: u64,
    first_timer: u64,
    /// Resource limits, a soft and a hard one of each.
    pub limits: [u64; 32],
    table_size: u64,
    closed_by_execve: u64,
    in_use: [u64; BITMAP],
    open: [u64; FIRST_FDS],
}

/// What decides in which namespaces a process is.
///
/// Its pid namespace is not among those that `nsproxy` names: that is where its children will be. But all that have the same
/// `nsproxy` were born in the one that it names, except for whoever made that; and he is either in it or above it, for
/// nobody enters another but one below (`pidns_install` of kernel/pid_namespace.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Namespaces {
    nsproxy: u64,
    user: u64,
    /// How deep its pid namespace is.
    level: u64,
}

/// All parts, in their order there.
pub(super) const FIELDS: &[Field] = &{
    use Step::{Behind, In};
    const MM: Step = In("task_struct", "mm");
    const FS: Step = In("task_struct", "fs");
    const SIGNAL: Step = In("task_struct", "signal");
    const FILES: Step = In("task_struct", "files");
    const FDT: Step = In("files_struct", "fdt");
    [
        Field::new(&[MM], 8),
        Field::new(&[FILES], 8),
        Field::new(&[FS], 8),
        Field::new(&[In("task_struct", "sighand")], 8),
        Field::new(&[MM, Behind, In("mm_struct", "def_flags")], 8),
        Field::new(&[In("task_struct", "nsproxy")], 8),
        Field::new(&[In("task_struct", "real_cred"), Behind, In("cred", "user_ns")], 8),
        Field::new(&[In("task_struct", "thread_pid"), Behind, In("pid", "level")], 4),
        Field::new(&[In("task_struct", "cgroups")], 8),
        Field::new(&[MM, Behind, In("mm_struct", "exe_file")], 8),
        Field::new(&[FS, Behind, In("fs_struct", "pwd")], 16),
        Field::new(&[FS, Behind, In("fs_struct", "root")], 16),
        Field::new(&[SIGNAL, Behind, In("signal_struct", "oom_score_adj")], 2),
        Field::new(&[In("task_struct", "loginuid")], 4),
        Field::new(&[MM, Behind, In("mm_struct", "flags")], 8),
        Field::new(&[SIGNAL, Behind, In("signal_struct", "posix_timers")], 8),
        Field::new(&[SIGNAL, Behind, In("signal_struct", "rlim")], 256),
        Field::new(&[FILES, Behind, FDT, Behind, In("fdtable", "max_fds")], 4),
        Field::new(&[FILES, Behind, FDT, Behind, In("fdtable", "close_on_exec"), Behind], 8),
        Field::new(&[FILES, Behind, FDT, Behind, In("fdtable", "open_fds"), Behind], 128),
        Field::new(&[FILES, Behind, FDT, Behind, In("fdtable", "fd"), Behind], 512),
    ]
};

/// Where a thread has things.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadPlaces {
    /// Its id in the initial pid namespace.
    pub tid: u64,
    /// Its descriptor table.
    pub files: u64,
    /// Its directories and umask.
    pub fs: u64,
    /// Its namespaces, but for those of users, and of pids.
    pub nsproxy: u64,
    /// Its control groups.
    pub cgroups: u64,
}

/// All parts, in their order there.
pub(super) const THREAD_FIELDS: &[Field] = &[
    Field::new(&[Step::In("task_struct", "pid")], 4),
    Field::new(&[Step::In("task_struct", "files")], 8),
    Field::new(&[Step::In("task_struct", "fs")], 8),
    Field::new(&[Step::In("task_struct", "nsproxy")], 8),
    Field::new(&[Step::In("task_struct", "cgroups")], 8),
];

/// A descriptor as the kernel has it.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// Where its open file description is.
    pub file: u64,
    /// Whether it is closed by execve.
    pub cloexec: bool,
}

impl Places {
    /// Its descriptors in order, if all have small numbers.
    pub fn descriptors(&self) -> Option<impl Iterator<Item = Descriptor>> {
        let open = self.open.iter().enumerate().filter(|(_, file)| **file != 0);
        let words = usize::try_from(self.table_size / u64::from(u64::BITS)).ok();
        let others = words.and_then(|words| self.in_use.get(1..words));
        others.is_some_and(|others| others.iter().all(|word| *word == 0)).then(|| {
            let cloexec = |fd: usize| self.closed_by_execve >> fd & 1 != 0;
            open.map(move |(fd, file)| Descriptor { fd: fd as i32, file: *file, cloexec: cloexec(fd) })
        })
    }

    /// Where its control groups are.
    pub fn cgroups(&self) -> u64 {
        self.cgroups
    }

    /// The number that decides what a file of `/proc/PID` says, if it is one.
    fn number(&self, name: &str) -> Option<u64> {
        match name {
            "oom_score_adj" => Some(self.oom_score_adj),
            "loginuid" => Some(self.loginuid),
            "coredump_filter" => Some(self.mm_flags),
            // Nobody else has the same timer, but many have none.
            "timers" => Some(self.first_timer),
            _ => None,
        }
    }
}

/// What was read of things that tasks have in common.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    limits: Memo<[u64; 32], Limits>,
    namespaces: Memo<Namespaces, Arc<Links>>,
    exes: Memo<u64, Arc<PathLink>>,
    folders: Memo<(&'static str, [u64; 2]), Arc<PathLink>>,
    texts: Memo<(&'static str, u64), String>,
}

impl Remembered {
    /// Resource limits.
    pub(super) fn limits<E>(
        &self,
        places: Option<&Places>,
        read: impl FnOnce() -> Result<Limits, E>,
    ) -> Result<Limits, E> {
        self.limits.or_read(places.map(|places| places.limits), read)
    }

    /// What the links of a process to its namespaces say.
    pub(super) fn namespaces(&self, places: Option<&Places>, read: impl FnOnce() -> Links) -> Arc<Links> {
        let read = || Ok::<_, std::convert::Infallible>(Arc::new(read()));
        match self.namespaces.or_read(places.map(|places| places.namespaces), read) {
            Ok(links) => links,
        }
    }

    /// The link `exe`, `cwd` or `root`.
    pub(super) fn path<E>(
        &self,
        places: Option<&Places>,
        name: &'static str,
        read: impl FnOnce() -> Result<PathLink, E>,
    ) -> Result<Arc<PathLink>, E> {
        let folder = places.and_then(|places| match name {
            "cwd" => Some(places.cwd),
            "root" => Some(places.root),
            _ => None,
        });
        let read = || read().map(Arc::new);
        match folder {
            Some(place) => self.folders.or_read(Some((name, place)), read),
            None => self.exes.or_read(places.map(|places| places.exe).filter(|_| name == "exe"), read),
        }
    }

    /// A file of `/proc/PID`.
    pub(super) fn text<E>(
        &self,
        places: Option<&Places>,
        name: &'static str,
        read: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        let number = places.and_then(|places| places.number(name));
        self.texts.or_read(number.map(|number| (name, number)), read)
    }
}

/// What was read, by what decides what it says.
#[derive(Debug)]
pub(crate) struct Memo<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Memo<K, V> {
    /// What is remembered, or is read now; failures are not remembered.
    pub(crate) fn or_read<E>(&self, key: Option<K>, read: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let Some(key) = key else { return read() };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let value = read()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value.clone());
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_all_of_it() {
        assert_eq!(Field::length_of(FIELDS), size_of::<Places>());
        assert_eq!(Field::length_of(THREAD_FIELDS), size_of::<ThreadPlaces>());
    }

    #[test]
    fn only_what_was_read_well_is_remembered() {
        let memo = Memo::default();
        assert_eq!(memo.or_read(Some(1), || Err("no")), Err("no"));
        assert_eq!(memo.or_read::<&str>(Some(1), || Ok("read")), Ok("read"));
        assert_eq!(memo.or_read::<&str>(Some(1), || Ok("read again")), Ok("read"));
        assert_eq!(memo.or_read::<&str>(None, || Ok("no key")), Ok("no key"));
    }
}
