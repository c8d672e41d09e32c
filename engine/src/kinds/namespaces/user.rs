//! User namespaces: which ids inside are which outside (user_namespaces(7)).
//!
//! We are in none ourselves, so what we read of a task has the ids outside; what a task sets has those inside.

use proto::catalogue::USERNS;
use proto::messages::{UidGidExtent, UsernsEntry};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::dump::inspect::read_proc;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::procfs::id_map::{self, IdMaps};
use crate::procfs::link::NamespaceType;
use crate::restore::user_spaces;

/// User namespaces.
#[derive(Debug)]
pub struct UserNamespace;

/// Why one cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum UserRefusal {
    /// Nobody has an id in it.
    #[error("it has no {0}: nobody in it has an id")]
    Unmapped(&'static str),
}

impl Explain for UserRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("write the maps of the user namespace first (user_namespaces(7))".into())
    }
}

/// Denies everybody in the user namespace of a process to change groups, by its name in `/proc`: as long as there is no map of them.
pub fn deny_groups(pid: &str) -> Result<(), Problem> {
    let path = format!("/proc/{pid}/setgroups");
    std::fs::write(&path, "deny").map_err(SysError::io("write")).about(|| Object::Path(path.into()))
}

/// Whether that is so, by the name of a process in `/proc`.
pub fn are_groups_denied(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text.starts_with("deny"))
}

/// Both maps of the user namespace that a process is in.
pub fn maps(pid: i32) -> Result<IdMaps, Problem> {
    let read = |name: &str| read_proc(format!("/proc/{pid}/{name}"), id_map::parse);
    Ok(IdMaps { uids: read("uid_map")?, gids: read("gid_map")? })
}

fn read(pid: i32, name: &str) -> Result<Vec<UidGidExtent>, Problem> {
    Ok(extents(&read_proc(format!("/proc/{pid}/{name}"), id_map::parse)?))
}

/// A map as images have it.
pub fn extents(map: &[id_map::Extent]) -> Vec<UidGidExtent> {
    let extent = |extent: &id_map::Extent| UidGidExtent {
        first: extent.inside,
        lower_first: extent.outside,
        count: extent.count,
    };
    map.iter().map(extent).collect()
}

/// A map that images have.
pub fn ranges(map: &[UidGidExtent]) -> Vec<id_map::Extent> {
    let range = |extent: &UidGidExtent| id_map::Extent {
        inside: extent.first,
        outside: extent.lower_first,
        count: extent.count,
    };
    map.iter().map(range).collect()
}

/// Writes a map of the user namespace that a process is in, by its name in `/proc`.
pub fn write(pid: &str, name: &str, map: &[UidGidExtent]) -> Result<(), Problem> {
    let path = format!("/proc/{pid}/{name}");
    let line = |e: &UidGidExtent| format!("{} {} {}\n", e.first, e.lower_first, e.count);
    let lines = map.iter().map(line).collect::<Vec<_>>().concat();
    std::fs::write(&path, lines).map_err(SysError::io("write")).about(|| Object::Path(path.into()))
}

/// Makes us root in the user namespace that we are in.
pub fn become_root() -> Result<(), SysError> {
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    match nix::unistd::setgroups(&[]) {
        // Nobody may there, and what we have is what we are to have.
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(SysError { call: "setgroups", errno }),
    }
    nix::unistd::setresgid(root.1, root.1, root.1).map_err(SysError::of("setresgid"))?;
    nix::unistd::setresuid(root.0, root.0, root.0).map_err(SysError::of("setresuid"))?;
    // A change of ids takes our files in /proc away from us.
    nix::sys::prctl::set_dumpable(true).map_err(SysError::of("prctl(PR_SET_DUMPABLE)"))
}

impl NamespaceKind for UserNamespace {
    const NAME: &'static str = "user-namespace";
    const NOT_SAVED: &'static [&'static str] =
        &["limits in /proc/sys/user", "which user made that of the root", "which group made it", "keyrings"];
    const TYPE: NamespaceType = NamespaceType::User;

    fn look(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        for name in ["uid_map", "gid_map"] {
            match read(cx.root, name) {
                Ok(map) if map.is_empty() => problems.push(Problem::new(UserRefusal::Unmapped(name))),
                Ok(_) => {}
                Err(problem) => problems.push(problem),
            }
        }
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let (uid_map, gid_map) = (read(cx.root, "uid_map")?, read(cx.root, "gid_map")?);
        images.write(&USERNS, cx.id.into(), &[UsernsEntry { uid_map, gid_map }])
    }

    fn act_outside(cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem> {
        let entry: UsernsEntry = cx.images.read_single(&USERNS, cx.id.into())?;
        let root = root.to_string();
        if user_spaces::home(cx.images)?.is_some_and(|home| home.groups_denied()) {
            deny_groups(&root)?;
        }
        write(&root, "uid_map", &entry.uid_map)?;
        write(&root, "gid_map", &entry.gid_map)
    }

    /// Makes us root there, who owns what is made from now on.
    fn begin(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        Ok(become_root()?)
    }

    fn restore(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
}
