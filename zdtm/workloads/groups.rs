//! Supplementary groups are kept, many of them and in order.

use nix::unistd::{Gid, getgroups, setgroups};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let groups: Vec<Gid> = (0..100).map(|number| Gid::from_raw(2000 + number * 7)).collect();
    setgroups(&groups)?;
    cx.barrier()?;
    ensure_eq!(getgroups()?, groups, "groups");
    Ok(())
}
