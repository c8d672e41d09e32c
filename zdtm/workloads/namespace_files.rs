//! Descriptors of the own namespaces are of the own namespaces, and can be entered.

use std::fs::{File, read_link};
use std::os::fd::AsRawFd as _;

use nix::sched::{CloneFlags, setns};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const KINDS: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let open = |kind| Ok((kind, File::open(format!("/proc/self/ns/{kind}"))?));
    let files: Vec<(&str, File)> = KINDS.into_iter().map(open).collect::<Result<_, Failure>>()?;
    let of_children = File::open("/proc/self/ns/pid_for_children")?;
    cx.barrier()?;
    for (kind, file) in &files {
        let link = read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        ensure_eq!(link, read_link(format!("/proc/self/ns/{kind}"))?, "namespace");
    }
    let link = read_link(format!("/proc/self/fd/{}", of_children.as_raw_fd()))?;
    ensure_eq!(link, read_link("/proc/self/ns/pid_for_children")?, "namespace of children");
    let uts = files.iter().find(|(kind, _)| *kind == "uts").map(|(_, file)| file);
    ensure_eq!(uts.map(|file| setns(file, CloneFlags::CLONE_NEWUTS)), Some(Ok(())), "entering one");
    Ok(())
}
