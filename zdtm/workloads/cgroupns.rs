//! A cgroup namespace has the root that it had, and the process its place in it.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const ROOT: &str = "/sys/fs/cgroup/cpu/zdtm-cgroupns";

/// The process's path in the hierarchy of the controller cpu, as it sees it itself.
fn place() -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let line = text.lines().find_map(|line| line.split_once(":cpu:"));
    Ok(line.map(|(_, path)| path.to_owned()).unwrap_or_default())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let own = std::process::id().to_string();
    fs::create_dir_all(format!("{ROOT}/below"))?;
    fs::write(format!("{ROOT}/cgroup.procs"), &own)?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?;
    ensure_eq!(place()?, "/", "the root, before the dump");
    fs::write(format!("{ROOT}/below/cgroup.procs"), &own)?;
    ensure_eq!(place()?, "/below", "the place, before the dump");
    cx.barrier()?;
    ensure_eq!(place()?, "/below", "the place");
    fs::write(format!("{ROOT}/cgroup.procs"), &own)?;
    ensure_eq!(place()?, "/", "the root");
    Ok(())
}
