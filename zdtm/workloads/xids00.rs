//! Children in sessions and process groups of their own stay there.

use nix::unistd::{Pid, getpgid, getpid, getsid, setpgid, setsid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let this = Pid::from_raw(0);
    let in_session = cx.child(|cx| {
        setsid()?;
        let member = cx.child(|cx| same_ids(cx, "member"))?;
        let leader = cx.child(|cx| {
            setpgid(this, this)?;
            same_ids(cx, "leader")
        })?;
        same_ids(cx, "session")?;
        [member, leader].into_iter().try_for_each(Child::join)
    })?;
    let in_group = cx.child(|cx| {
        setpgid(this, this)?;
        same_ids(cx, "group")
    })?;
    // Its group's leader is a sibling.
    let joined = cx.child(|cx| {
        cx.wait_for("group")?;
        setpgid(this, in_group.pid)?;
        same_ids(cx, "joined")
    })?;
    ["member", "leader", "session", "group", "joined"].iter().try_for_each(|name| cx.wait_for(name))?;
    cx.barrier()?;
    [in_session, joined, in_group].into_iter().try_for_each(Child::join)
}

fn same_ids(cx: &Context, name: &str) -> Verdict {
    let before = (getpid(), getpgid(None)?, getsid(None)?);
    cx.post(name)?;
    cx.park()?;
    ensure_eq!((getpid(), getpgid(None)?, getsid(None)?), before, format!("ids of {name}"));
    Ok(())
}
