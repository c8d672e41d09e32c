//! `stasis dump`.

use std::path::Path;
use std::time::Duration;

use nix::unistd::AccessFlags;

use crate::cgroups::Hierarchies;
use crate::error::{Action, Error, Problem, TargetState};
use crate::inside::{self, Ended, Home, Kept, Outside, Side};
use crate::mounts::surroundings::Surroundings;
use crate::options::{
    Afterwards, Connections, CpuCap, DumpOptions, ExternalUnix, Inside, NetworkLock, Timeout,
};
use crate::procfs::link::NamespaceType;
use crate::supervise::{self, Lifeline, Role};
use crate::visit;

use super::grammar::Given;
use super::{
    Failure, UsageError, directories, files, log_options, mounts, namespaces, need_directory, output,
    start_log,
};

pub(super) fn options(given: &Given) -> Result<DumpOptions, UsageError> {
    let (images_dir, work_dir) = directories(given);
    let log = log_options(given, &work_dir);
    let afterwards = match (given.flag("leave-running"), given.flag("leave-stopped")) {
        (false, false) => Afterwards::Default,
        (true, false) => Afterwards::LeaveRunning,
        (false, true) => Afterwards::LeaveStopped,
        (true, true) => return Err(UsageError::Contradiction("--leave-running", "--leave-stopped")),
    };
    Ok(DumpOptions {
        tree: tree(given)?,
        images_dir,
        work_dir,
        afterwards,
        shell_job: given.flag("shell-job"),
        timeout: given
            .value("timeout")
            .map_or_else(Timeout::default, |s: u32| Timeout(Duration::from_secs(s.into()))),
        connections: connections(given),
        skip_in_flight: given.flag("skip-in-flight"),
        network_lock: network_lock(given)?,
        external_unix: external_unix(given)?,
        cgroups: super::cgroups::options(given)?,
        freeze_cgroup: given.value("freeze-cgroup"),
        files: files::options(given),
        mounts: mounts::options(given)?,
        namespaces: namespaces::options(given)?,
        skip_checksums: given.flag("skip-checksums"),
        display_stats: given.flag("display-stats"),
        describe_cpu: super::cpuinfo::cpu_cap(given).is_some_and(|caps| caps != CpuCap::default()),
        log,
        inside: Inside::default(),
    })
}

/// What becomes of TCP connections.
pub(super) fn connections(given: &Given) -> Connections {
    match (given.flag("tcp-established"), given.flag("tcp-close")) {
        (false, false) => Connections::Refused,
        (true, false) => Connections::Kept,
        // Callers give both, and mean the latter.
        (_, true) => Connections::Closed,
    }
}

/// How packets are held back.
pub(super) fn network_lock(given: &Given) -> Result<NetworkLock, UsageError> {
    match given.value::<String>("network-lock").as_deref() {
        None | Some("nftables") => Ok(NetworkLock::Nftables),
        Some("iptables") => Ok(NetworkLock::Iptables),
        Some("skip") => Ok(NetworkLock::Skip),
        Some(other) => {
            let methods = "the methods are nftables, iptables and skip";
            Err(UsageError::bad_value("--network-lock METHOD", other, methods))
        }
    }
}

/// Unix sockets outside of the tree whose loss is accepted.
fn external_unix(given: &Given) -> Result<ExternalUnix, UsageError> {
    let mut accepted = ExternalUnix::default();
    let bad = |option: &str, value: &str| UsageError::bad_value(option, value, "an inode number is a number");
    for value in given.values::<String>("ext-unix-sk") {
        match value.parse() {
            _ if value == "+" => accepted.all = true,
            Ok(inode) => accepted.inodes.push(inode),
            Err(_) => return Err(bad("--ext-unix-sk[=INODE]", &value)),
        }
    }
    for value in given.values::<String>("external") {
        if let Some(inode) = value.strip_prefix("unix[") {
            let inode = inode.strip_suffix(']').and_then(|inode| inode.parse().ok());
            accepted.inodes.push(inode.ok_or_else(|| bad("--external RESOURCE", &value))?);
        }
    }
    Ok(accepted)
}

fn tree(given: &Given) -> Result<i32, UsageError> {
    given.value("tree").ok_or(UsageError::Missing { command: given.verb.name(), option: "--tree PID" })
}

pub(super) fn run(options: &DumpOptions) -> Result<u8, Failure> {
    let usable = AccessFlags::W_OK | AccessFlags::X_OK;
    need_directory("images directory", &options.images_dir, usable)?;
    need_directory("work directory", &options.work_dir, usable)?;
    start_log(&options.log)?;
    match supervise::split().map_err(Failure::Worker)? {
        Role::Worker(lifeline) => work(options, &lifeline),
        Role::Command(code) => Ok(code),
        Role::WorkerKilled(signal) => Err(Failure::WorkerKilled(signal)),
    }
}

/// Dumps the tree from within its namespaces, if it has any for itself.
fn work(options: &DumpOptions, lifeline: &Lifeline) -> Result<u8, Failure> {
    let ends = options.afterwards == Afterwards::Default;
    // They are at home, and so are we for now.
    let cgroups = if options.cgroups.manage.describes_groups() {
        Hierarchies::open(options.cgroups.yard.as_deref()).map_err(|problem| Error {
            action: Action::Dump,
            target: crate::dump::target::describe(options),
            problems: vec![problem],
            state: TargetState::Untouched,
        })?
    } else {
        Hierarchies::default()
    };
    from_inside(options, Action::Dump, ends, |options| {
        let stats = crate::dump::dump(options, &cgroups, lifeline)?;
        if options.display_stats {
            output::print(&stats.to_string());
        }
        Ok(0)
    })
}

/// Does something about a tree in a process that is in its namespaces, if it has any for itself. The exit code: here, when
/// that process has ended, and also the tree, if it `ends`.
pub(super) fn from_inside(
    options: &DumpOptions,
    action: Action,
    ends: bool,
    act: impl FnOnce(&DumpOptions) -> Result<u8, Error>,
) -> Result<u8, Failure> {
    let fail = |problem| Error {
        action,
        target: crate::dump::target::describe(options),
        problems: vec![problem],
        state: TargetState::Untouched,
    };
    crate::dump::target::check(options.tree).map_err(fail)?;
    let types = inside::differing(options.tree);
    if types.is_empty() {
        return Ok(act(options)?);
    }
    let keep = |path: &Path| Kept::open(path).map_err(Problem::new);
    let images = keep(&options.images_dir).map_err(fail)?;
    let work = keep(&options.work_dir).map_err(fail)?;
    let freezer = options.freeze_cgroup.as_deref().map(keep).transpose().map_err(fail)?;
    let outside = Outside::open().map_err(Problem::new).map_err(fail)?;
    let root = keep(Path::new("/")).map_err(fail)?;
    let mounts = visit::here(NamespaceType::Mnt).map_err(Problem::new).map_err(fail)?;
    let surroundings = Surroundings::read().map_err(fail)?.seen_from(root.path());
    let inside = match inside::enter_for_dump(options, types, ends).map_err(fail)? {
        Side::Inside(inside) => *inside,
        Side::Outside(Ended::Code(code)) => return Ok(code),
        Side::Outside(Ended::Signal(signal)) => return Err(Failure::WorkerKilled(signal)),
    };
    let mut options = options.clone();
    (options.images_dir, options.work_dir) = (images.path(), work.path());
    options.freeze_cgroup = freezer.as_ref().map(Kept::path);
    options.tree = inside.inner_pid;
    let home = inside.types.contains(&NamespaceType::Mnt).then(|| Home::new(&mounts, &root));
    options.inside = Inside { surroundings, timer_list: Some(outside.timer_list()), home, ..inside };
    let named = |mut error: Error| {
        error.problems.iter_mut().flat_map(|problem| &mut problem.task).for_each(|task| outside.rename(task));
        error
    };
    Ok(act(&options).map_err(named)?)
}
