//! A parent and its children have different users, groups and capabilities.

use nix::unistd::{Gid, Uid, getresgid, getresuid, setgroups, setresgid, setresuid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::capability;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let children = [
        cx.child(|cx| unprivileged(cx, "first", [1000, 1001, 1002]))?,
        cx.child(|cx| unprivileged(cx, "second", [65534, 65534, 0]))?,
    ];
    cx.wait_for("first")?;
    cx.wait_for("second")?;
    let before = capability::shown()?;
    cx.barrier()?;
    ensure_eq!(getresuid()?.effective, Uid::from_raw(0), "user id of the parent");
    ensure_eq!(capability::shown()?, before, "capabilities of the parent");
    children.into_iter().try_for_each(zdtm::workload::Child::join)
}

fn unprivileged(cx: &mut Context, name: &str, ids: [u32; 3]) -> Verdict {
    let (gids, uids) = (ids.map(Gid::from_raw), ids.map(Uid::from_raw));
    let groups = [Gid::from_raw(ids[0] + 3), Gid::from_raw(ids[0] + 4)];
    setgroups(&groups)?;
    setresgid(gids[0], gids[1], gids[2])?;
    setresuid(uids[0], uids[1], uids[2])?;
    let before = capability::shown()?;
    cx.post(name)?;
    cx.park()?;
    let (user, group) = (getresuid()?, getresgid()?);
    ensure_eq!([user.real, user.effective, user.saved], uids, "user ids");
    ensure_eq!([group.real, group.effective, group.saved], gids, "group ids");
    ensure_eq!(nix::unistd::getgroups()?, groups, "groups");
    ensure_eq!(capability::shown()?, before, "capabilities");
    Ok(())
}
