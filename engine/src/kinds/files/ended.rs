//! Files in `/proc` of processes that have ended: whoever reads one is told that there is no such process (`ESRCH`).
//!
//! At restore a process with the old number is there for as long as it takes to open them. If somebody has that number by
//! now, it is a process with another: then the descriptor shows another name, and reads alike.

use std::os::fd::OwnedFd;
use std::path::Path;

use proto::messages::RegFileEntry;

use super::regular;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::sys::{namespace, process};

/// A file in `/proc` of a process: the number of the process, and where the file is below its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OfProcess<'a> {
    pub(super) pid: i32,
    below: &'a str,
}

impl<'a> OfProcess<'a> {
    /// Parses a path, as procfs is usually mounted.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/proc/")?;
        let (pid, below) = rest.split_once('/').unwrap_or((rest, ""));
        let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
        Some(Self { pid, below })
    }

    /// The file of the same name of another process, which has one thread.
    fn path_for(self, pid: i32) -> Option<String> {
        let thread = format!("task/{}", self.pid);
        let below = match self.below.strip_prefix(&thread) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("task/{pid}{rest}"),
            // Of a thread that has ended before the others.
            _ if self.below.starts_with("task/") => return None,
            _ => self.below.to_owned(),
        };
        Some(if below.is_empty() { format!("/proc/{pid}") } else { format!("/proc/{pid}/{below}") })
    }

    /// Whether every process has such a file; not every one has a certain descriptor.
    pub(super) fn is_everyones(self) -> bool {
        let path = self.path_for(std::process::id() as i32);
        let of_descriptor =
            ["fd/", "fdinfo/", "map_files/"].iter().any(|folder| self.below.starts_with(folder));
        !of_descriptor && path.is_some_and(|path| Path::new(&path).symlink_metadata().is_ok())
    }
}

/// Opens files of a process that has ended.
pub(super) fn open(pid: i32, users: &[RegFileEntry]) -> Result<Vec<(u32, OwnedFd)>, Problem> {
    let (here, there) = nix::unistd::pipe().map_err(SysError::of("pipe"))?;
    // With its old number, unless somebody has that.
    let forked = namespace::fork_with_pid(pid, 0).or_else(|_taken| process::fork())?;
    let Some(helper) = forked else { process::wait_to_be_taken(&here, &there) };
    let opened = users.iter().map(|user| Ok((user.id, open_of(helper, user)?))).collect();
    drop(there);
    process::wait(helper)?;
    opened
}

fn open_of(helper: i32, user: &RegFileEntry) -> Result<OwnedFd, Problem> {
    let path = OfProcess::parse(&user.name).and_then(|file| file.path_for(helper));
    let path = path.ok_or_else(|| Problem::new(super::remap::RemapRefusal::EndedThread))?;
    let object = || Object::Path(user.name.clone().into());
    regular::reopen(Path::new(&path), user).about(object).while_trying_to("open the file again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_processes_are_known_by_their_names() {
        let path_for_seven = |path| OfProcess::parse(path).and_then(|file| file.path_for(7));
        assert_eq!(path_for_seven("/proc/12").as_deref(), Some("/proc/7"));
        assert_eq!(path_for_seven("/proc/12/status").as_deref(), Some("/proc/7/status"));
        assert_eq!(path_for_seven("/proc/12/task/12/stat").as_deref(), Some("/proc/7/task/7/stat"));
        assert_eq!(path_for_seven("/proc/12/task/121/stat"), None);
        assert_eq!((path_for_seven("/proc/self/stat"), path_for_seven("/proc/0")), (None, None));
    }

    #[test]
    fn not_every_process_has_a_certain_descriptor() {
        let is_everyones = |path| OfProcess::parse(path).is_some_and(OfProcess::is_everyones);
        assert!(is_everyones("/proc/12/status") && is_everyones("/proc/12/ns"));
        assert!(!is_everyones("/proc/12/fd/0") && !is_everyones("/proc/12/nothing"));
    }
}
