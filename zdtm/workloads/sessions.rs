//! Sessions and process groups of every shape: children born before their parent's setsid, orphans whose session goes on
//! elsewhere or has lost its leader, groups that lost their leader, and leaders that left their group.

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpid, getppid, getsid, setpgid, setsid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict, exit_now};

const THIS: Pid = Pid::from_raw(0);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set_child_subreaper(true)?;
    let root = getpid();
    let born_before = cx.child(|cx| {
        let inner = cx.child(|cx| same_ids(cx, "born-before"))?;
        setsid()?;
        let late = cx.child(|cx| same_ids(cx, "born-after"))?;
        same_ids(cx, "began-session")?;
        [inner, late].into_iter().try_for_each(Child::join)
    })?;
    // Its session lives on below, its parent is gone.
    let leader = cx.child(|cx| {
        setsid()?;
        let middle = cx.child(|cx| {
            cx.child(|cx| orphan(cx, "orphan-of-living", root, || Ok(())))?;
            Ok(())
        })?;
        middle.join()?;
        same_ids(cx, "leader")
    })?;
    // Its session has lost its leader, and it has a child there.
    let gone = cx.child(|cx| {
        setsid()?;
        cx.child(|cx| {
            let child = cx.child(|cx| {
                setpgid(THIS, THIS)?;
                same_ids(cx, "child-of-orphan")
            })?;
            orphan(cx, "orphan-of-ended", root, || child.join())
        })?;
        Ok(())
    })?;
    gone.join()?;
    let groups = groups(cx)?;
    let names =
        ["born-before", "born-after", "began-session", "orphan-of-living", "leader", "child-of-orphan"];
    names
        .iter()
        .chain(&["orphan-of-ended", "moved", "member", "left-alone"])
        .try_for_each(|name| cx.wait_for(name))?;
    cx.barrier()?;
    [born_before, leader].into_iter().chain(groups).try_for_each(Child::join)?;
    for _ in 0..2 {
        let status = waitpid(None::<Pid>, None)?;
        zdtm::ensure!(matches!(status, WaitStatus::Exited(_, 20)), "an orphan: {status:?}, see workload.log");
    }
    Ok(())
}

/// A group whose leader has gone to another, with a member; and one whose leader has ended.
fn groups(cx: &Context) -> Result<Vec<Child>, Failure> {
    let other = cx.child(|cx| {
        setpgid(THIS, THIS)?;
        cx.post("other-group")?;
        same_ids(cx, "member")
    })?;
    cx.wait_for("other-group")?;
    let moved = cx.child(|cx| {
        setpgid(THIS, THIS)?;
        let stays = cx.child(|cx| same_ids(cx, "moved"))?;
        cx.wait_for("moved")?;
        setpgid(THIS, other.pid)?;
        same_ids(cx, "moved-leader")?;
        stays.join()
    })?;
    let alone = cx.child(|cx| {
        let leader = cx.child(|cx| {
            setpgid(THIS, THIS)?;
            cx.post("short-group")?;
            cx.wait_for("left-alone")
        })?;
        cx.wait_for("short-group")?;
        setpgid(THIS, leader.pid)?;
        cx.post("left-alone")?;
        leader.join()?;
        same_ids(cx, "left-alone-ready")
    })?;
    cx.wait_for("moved-leader")?;
    cx.wait_for("left-alone-ready")?;
    Ok(vec![other, moved, alone])
}

/// Waits until it is given to the root, and is the same then and after the barrier; ends with code 20.
fn orphan(cx: &Context, name: &str, root: Pid, end: impl FnOnce() -> Verdict) -> Verdict {
    while getppid() != root {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    same_ids(cx, name)?;
    end()?;
    exit_now(20)
}

fn same_ids(cx: &Context, name: &str) -> Verdict {
    let ids = || -> nix::Result<_> { Ok((getpid(), getpgid(None)?, getsid(None)?)) };
    let before = (ids()?, getppid());
    cx.post(name)?;
    cx.park()?;
    ensure_eq!((ids()?, getppid()), before, format!("ids and parent of {name}"));
    Ok(())
}
