//! Namespaces of host names, of System V objects and of control groups that only a part of a tree is in.

use std::fs;

use nix::sched::{CloneFlags, unshare};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::{msgque, shm, utsname};

/// Host names of a child, and of a grandchild that is in the same namespace; a descriptor of their parent's leads there.
pub(crate) fn uts(cx: &mut Context) -> Verdict {
    let before = utsname::names()?;
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWUTS)?;
        utsname::set("part.example", "part")?;
        let below = cx.child(|cx| {
            cx.park()?;
            ensure_eq!(utsname::names()?, ["part.example", "part"], "names of the grandchild");
            cx.post("looked")?;
            cx.wait_for("renamed")?;
            ensure_eq!(utsname::names()?, ["other", "part"], "names that a relative has set");
            Ok(())
        })?;
        cx.post("child")?;
        cx.park()?;
        ensure_eq!(utsname::names()?, ["part.example", "part"], "names of the child");
        cx.wait_for("looked")?;
        utsname::set("other", "part")?;
        cx.post("renamed")?;
        below.join()
    })?;
    cx.wait_for("child")?;
    let space = fs::File::open(format!("/proc/{}/ns/uts", child.pid))?;
    cx.barrier()?;
    ensure_eq!(utsname::names()?, before, "names");
    child.join()?;
    nix::sched::setns(&space, CloneFlags::CLONE_NEWUTS)?;
    ensure_eq!(utsname::names()?, ["other", "part"], "names where a descriptor leads");
    Ok(())
}

/// A queue and two segments in a namespace: their ids are the same in each.
fn objects(cx: &mut Context, text: &'static str) -> Verdict {
    unshare(CloneFlags::CLONE_NEWIPC)?;
    fs::write("/proc/sys/kernel/msgmax", "4096")?;
    let queue = msgque::make(7)?;
    msgque::send(queue, 1, text.as_bytes())?;
    let (attached, unused) = (shm::make(8, 4096)?, shm::make(9, 8192)?);
    let bytes = shm::attach(attached, 4096)?;
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    let other = shm::attach(unused, 8192)?;
    other[8000..8000 + text.len()].copy_from_slice(text.as_bytes());
    shm::detach(other)?;
    cx.post(text)?;
    cx.park()?;
    ensure_eq!(fs::read_to_string("/proc/sys/kernel/msgmax")?.trim(), "4096", "a tunable");
    ensure_eq!(msgque::receive(queue, 0)?, (1, text.as_bytes().to_vec()), "the message");
    ensure_eq!(&bytes[..text.len()], text.as_bytes(), "what is in the segment");
    ensure_eq!(shm::stat(attached)?.shm_nattch, 1, "users of the segment");
    let other = shm::attach(unused, 8192)?;
    ensure_eq!(&other[8000..8000 + text.len()], text.as_bytes(), "what is in the one that nobody used");
    shm::detach(other)
}

pub(crate) fn ipc(cx: &mut Context) -> Verdict {
    let before = fs::read_to_string("/proc/sysvipc/msg")?;
    let children = ["first", "second"].map(|text| cx.child(move |cx| objects(cx, text)));
    cx.wait_for("first")?;
    cx.wait_for("second")?;
    cx.barrier()?;
    ensure_eq!(fs::read_to_string("/proc/sysvipc/msg")?, before, "queues outside");
    children.into_iter().try_for_each(|child| child?.join())
}

const GROUP: &str = "/sys/fs/cgroup/cpu/zdtm-cgroupns_part";

/// Our path in the hierarchy of the controller cpu, as we see it ourselves.
fn place() -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let line = text.lines().find_map(|line| line.split_once(":cpu:"));
    Ok(line.map(|(_, path)| path.to_owned()).unwrap_or_default())
}

/// A cgroup namespace of a child, which is below the group that it begins with.
pub(crate) fn cgroup(cx: &mut Context) -> Verdict {
    fs::create_dir_all(format!("{GROUP}/root/below"))?;
    let outside = place()?;
    let child = cx.child(|cx| {
        let own = std::process::id().to_string();
        fs::write(format!("{GROUP}/root/cgroup.procs"), &own)?;
        unshare(CloneFlags::CLONE_NEWCGROUP)?;
        fs::write(format!("{GROUP}/root/below/cgroup.procs"), &own)?;
        ensure_eq!(place()?, "/below", "the place, before the dump");
        cx.post("child")?;
        cx.park()?;
        ensure_eq!(place()?, "/below", "the place");
        fs::write(format!("{GROUP}/cgroup.procs"), &own)?;
        ensure_eq!(place()?, "/..", "a place above the root of the namespace");
        Ok(())
    })?;
    cx.wait_for("child")?;
    cx.barrier()?;
    ensure_eq!(place()?, outside, "the place of the parent");
    child.join()
}
