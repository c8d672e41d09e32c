//! `stasis restore`.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{AccessFlags, Pid};

use crate::cgroups::CgroupsRestore;
use crate::error::{Error, SysError};
use crate::image::Images;
use crate::inside::{Ended, Kept, Outside};
use crate::options::{Afterwards, Inside, Parent, RestoreOptions};
use crate::restore::cradle::{self, Side};

use super::grammar::Given;
use super::table::Verb;
use super::{
    Failure, UsageError, directories, files, log_options, mounts, namespaces, need_directory, network,
    output, start_log,
};

pub(super) fn options(given: &Given) -> Result<RestoreOptions, UsageError> {
    let (images_dir, work_dir) = directories(given);
    let parent = match (given.flag("restore-detached"), given.flag("restore-sibling")) {
        (false, false) => Parent::Foreground,
        (true, false) => Parent::Detached,
        (true, true) => Parent::Sibling,
        (false, true) => {
            return Err(UsageError::Alone { option: "--restore-sibling", with: "--restore-detached" });
        }
    };
    if given.verb == Verb::Restore && given.matches.contains_id("command") {
        return Err(UsageError::Alone { option: "a command behind --", with: "--exec-cmd" });
    }
    let afterwards = if given.flag("leave-stopped") { Afterwards::LeaveStopped } else { Afterwards::Default };
    Ok(RestoreOptions {
        log: log_options(given, &work_dir),
        images_dir,
        parent,
        afterwards,
        connections: super::dump::connections(given),
        inherit_fds: given
            .values::<String>("inherit-fd")
            .iter()
            .map(|v| inherited(v))
            .collect::<Result<_, _>>()?,
        pidfile: given.value("pidfile"),
        shell_job: given.flag("shell-job"),
        cgroups: super::cgroups::options(given)?,
        files: files::options(given),
        net: network::options(given)?,
        namespaces: namespaces::options(given)?,
        skip_checksums: given.flag("skip-checksums"),
        map_pages: given.flag("map-pages"),
        display_stats: given.flag("display-stats"),
        cpu_cap: super::cpuinfo::cpu_cap(given).unwrap_or_default(),
        mounts: mounts::options(given)?,
        weak_sysctls: given.flag("weak-sysctls"),
        inside: Inside::default(),
        work_dir,
    })
}

/// `fd[N]:RESOURCE`.
fn inherited(value: &str) -> Result<(i32, String), UsageError> {
    let parse = || {
        let (number, resource) = value.strip_prefix("fd[")?.split_once("]:")?;
        let number = number.parse().ok().filter(|n| *n >= 0)?;
        files::is_inheritable(resource).then(|| (number, resource.to_owned()))
    };
    let reason = "a resource is socket:[INODE], pipe:[INODE], file[MNT:INODE] or a path";
    parse().ok_or_else(|| UsageError::bad_value("--inherit-fd fd[N]:RESOURCE", value, reason))
}

pub(super) fn run(options: &RestoreOptions) -> Result<u8, Failure> {
    need_directory("images directory", &options.images_dir, AccessFlags::R_OK | AccessFlags::X_OK)?;
    if options.work_dir != options.images_dir {
        need_directory("work directory", &options.work_dir, AccessFlags::X_OK)?;
    }
    start_log(&options.log)?;
    let images_dir = keep(&options.images_dir, "images directory")?;
    let work_dir = keep(&options.work_dir, "work directory")?;
    let images = crate::restore::open(options)?;
    crate::restore::processor(options, &images)?;
    let mut cgroups = crate::restore::cgroups(options, &images)?;
    let outside = Outside::open().map_err(|cause| Failure::Place {
        what: "procfs",
        path: PathBuf::from("/proc"),
        cause,
    })?;
    let root = match cradle::enter(options, &images, &mut cgroups)? {
        Side::Home => restore(options, &images, &mut cgroups)?,
        Side::Inside(inside) => {
            let target = options.images_dir.display().to_string();
            let (images_dir, work_dir) = (images_dir.path(), work_dir.path());
            let images = images.reached_by(&images_dir);
            let inside = Inside { tunables: Some(outside.tunables()), ..*inside };
            let options = RestoreOptions { images_dir, work_dir, inside, ..options.clone() };
            let named = |error| match error {
                Failure::Engine(error) => Failure::Engine(Error { target, ..error }),
                other => other,
            };
            return restore(&options, &images, &mut cgroups).map(|_root| 0).map_err(named);
        }
        Side::Outside { root, ended: Ended::Code(0) } => {
            cgroups.succeeded();
            root
        }
        Side::Outside { ended: Ended::Code(code), .. } => return Ok(code),
        Side::Outside { ended: Ended::Signal(signal), .. } => return Err(Failure::RestoreKilled(signal)),
    };
    if let Some(pidfile) = &options.pidfile {
        write_pidfile(&options.work_dir.join(pidfile), root)?;
    }
    match options.parent {
        Parent::Foreground => wait_for(root),
        Parent::Detached | Parent::Sibling => Ok(0),
    }
}

fn restore(options: &RestoreOptions, images: &Images, cgroups: &mut CgroupsRestore) -> Result<i32, Failure> {
    let restored = crate::restore::restore(options, images, cgroups)?;
    if options.display_stats {
        output::print(&restored.stats.to_string());
    }
    Ok(restored.root)
}

fn keep(path: &Path, what: &'static str) -> Result<Kept, Failure> {
    Kept::open(path).map_err(|cause| Failure::Place { what, path: path.to_owned(), cause })
}

fn write_pidfile(path: &Path, pid: i32) -> Result<(), Failure> {
    std::fs::write(path, pid.to_string()).map_err(|e| {
        let cause = SysError::io("open")(e);
        Failure::AfterRestore { what: "its pid file could not be written", cause }
    })
}

/// Waits for the root and ends as it ends: with its exit code, or with 128 and the signal's number.
fn wait_for(root: i32) -> Result<u8, Failure> {
    loop {
        match waitpid(Pid::from_raw(root), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as u8),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                let cause = SysError::of("waitpid")(errno);
                return Err(Failure::AfterRestore { what: "its root could not be waited for", cause });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("exit 7", 7)]
    #[case("kill -TERM $$", 143)]
    fn we_end_as_the_root_ends(#[case] script: &str, #[case] code: u8) {
        #[expect(clippy::zombie_processes, reason = "wait_for reaps it")]
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        assert_eq!(wait_for(i32::try_from(child.id()).unwrap()).unwrap(), code);
    }

    #[test]
    fn a_pid_file_holds_the_pid_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write_pidfile(&path, 4242).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"4242");
    }
}
