//! A visit of a namespace: we go there for the moment, and come back.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns};

use crate::error::{Context as _, Object, Problem, SysError};
use crate::procfs::link::NamespaceType;

/// As long as it lives, we are in another namespace of one type.
#[derive(Debug)]
pub struct Visit {
    home: File,
    flag: CloneFlags,
}

impl Visit {
    /// Goes into a namespace of this type.
    pub fn pay(space: impl AsFd, kind: NamespaceType) -> Result<Self, SysError> {
        let home = here(kind)?;
        let flag = CloneFlags::from_bits_retain(kind.clone_flag());
        setns(space, flag).map_err(SysError::of("setns"))?;
        Ok(Self { home, flag })
    }
}

/// The namespace of a type that we are in.
pub fn here(kind: NamespaceType) -> Result<File, SysError> {
    File::open(format!("/proc/self/ns/{}", kind.name())).map_err(SysError::io("open"))
}

/// The namespace of a type that a process is in.
pub fn of(pid: impl Display, kind: NamespaceType) -> Result<File, Problem> {
    open(format!("/proc/{pid}/ns/{}", kind.name()))
}

/// The namespace of a type that children of a process will be in: there is such a link for pid and time namespaces.
pub fn of_children(pid: impl Display, kind: NamespaceType) -> Result<File, Problem> {
    open(format!("/proc/{pid}/ns/{}_for_children", kind.name()))
}

fn open(path: String) -> Result<File, Problem> {
    File::open(&path).map_err(SysError::io("open")).about(|| Object::Path(path.into()))
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.home, self.flag) {
            // Whatever we did next, we would do it in the wrong place.
            log::error!("{}", SysError::of("setns")(errno));
            std::process::abort();
        }
    }
}
