//! Control groups (cgroups(7)): where in each hierarchy tasks are, what the groups look like, and both of it again.
//!
//! Whoever works in namespaces of a tree sees no hierarchies, or those of somebody else. So their directories are opened by
//! the command at home, before it goes anywhere (`inside.rs`), and are handed down; and it stays in its own cgroup namespace,
//! so that paths begin at the true root.
//!
//! A group in which the command itself was, too, at dump is nobody's own: its tasks stay where the restore is run.

mod dump;
mod properties;
mod restore;
pub mod wanted;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

pub use dump::CgroupsDump;
pub use restore::{CgroupsRestore, MovedRoots};

use crate::dump::inspect::read_proc;
use crate::error::{Problem, SysError};
use crate::procfs::mountinfo::{self, Mount};

/// One hierarchy that is mounted here.
#[derive(Debug)]
pub struct Hierarchy {
    /// As `/proc/PID/cgroup` calls it; nothing for version 2.
    pub name: String,
    /// Its root.
    dir: OwnedFd,
}

impl Hierarchy {
    /// Whether it is that of version 2.
    pub fn is_v2(&self) -> bool {
        self.name.is_empty()
    }

    /// The file of a group to which the ids of its tasks are written: of whole processes, or of single threads.
    fn members_file(&self, threads: bool) -> &'static str {
        match (threads, self.is_v2()) {
            (false, _) => "cgroup.procs",
            (true, false) => "tasks",
            (true, true) => "cgroup.threads",
        }
    }

    fn open(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        // A path is relative to this root, whatever an image says.
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let how = nix::fcntl::OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(nix::fcntl::ResolveFlag::RESOLVE_IN_ROOT | nix::fcntl::ResolveFlag::RESOLVE_NO_SYMLINKS);
        nix::fcntl::openat2(self.dir.as_fd(), relative, how)
    }

    /// Opens a group.
    fn group(&self, path: &str) -> Result<Option<Group>, SysError> {
        match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(dir) => Ok(Some(Group(dir))),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(SysError { call: "openat2(cgroup)", errno }),
        }
    }

    /// Moves a process, or one of its threads, into a group.
    pub fn enter(&self, path: &str, id: i32, thread: bool) -> Result<(), SysError> {
        let group = self.group(path)?.ok_or(SysError { call: "openat2(cgroup)", errno: Errno::ENOENT })?;
        group.write(self.members_file(thread), &id.to_string())
    }
}

/// One group: a directory of files that the kernel makes.
#[derive(Debug)]
struct Group(OwnedFd);

impl Group {
    fn read(&self, name: &str) -> Result<Option<String>, SysError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = match nix::fcntl::openat(self.0.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::EACCES) => return Ok(None),
            Err(errno) => return Err(SysError { call: "openat(cgroup)", errno }),
        };
        let mut text = Vec::new();
        // Some files cannot be read in some groups.
        Ok(file
            .take(1 << 20)
            .read_to_end(&mut text)
            .is_ok()
            .then(|| String::from_utf8_lossy(&text).into_owned()))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), SysError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = nix::fcntl::openat(self.0.as_fd(), name, flags, Mode::empty());
        let mut file = File::from(file.map_err(SysError::of("openat(cgroup)"))?);
        file.write_all(text.as_bytes()).map_err(SysError::io("write(cgroup)"))
    }
}

/// All hierarchies that are mounted here.
#[derive(Debug, Default)]
pub struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Opens them; with a `yard`, only those that are mounted below that directory.
    pub fn open(yard: Option<&Path>) -> Result<Self, Problem> {
        let mounts = read_proc("/proc/self/mountinfo".to_owned(), mountinfo::parse)?;
        let mut found: Vec<Hierarchy> = Vec::new();
        for mount in &mounts {
            let point = Path::new(OsStr::from_bytes(&mount.mountpoint));
            let Some(name) = name_of(mount) else { continue };
            let is_wanted = mount.root == b"/" && yard.is_none_or(|yard| point.starts_with(yard));
            if !is_wanted || found.iter().any(|hierarchy| hierarchy.name == name) {
                continue;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            match nix::fcntl::open(point, flags, Mode::empty()) {
                Ok(dir) => found.push(Hierarchy { name, dir }),
                Err(errno) => log::debug!("the hierarchy of cgroups at {}: {errno}", point.display()),
            }
        }
        Ok(Self(found))
    }

    /// The hierarchy of this name.
    pub fn find(&self, name: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|hierarchy| hierarchy.name == name)
    }
}

/// How `/proc/PID/cgroup` calls the hierarchy of a mount.
fn name_of(mount: &Mount) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    hierarchy_of(&text(&mount.fstype), &text(&mount.super_options))
}

/// How `/proc/PID/cgroup` calls the hierarchy of a file system of this type with these options.
fn hierarchy_of(fstype: &str, options: &str) -> Option<String> {
    /// What options of a mount say besides its controllers.
    const OTHERS: [&str; 6] = ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"];
    match fstype {
        "cgroup2" => Some(String::new()),
        "cgroup" => {
            let names = options
                .split(',')
                .filter(|name| !OTHERS.contains(name) && !name.starts_with("release_agent="));
            Some(names.collect::<Vec<_>>().join(","))
        }
        _ => None,
    }
}
