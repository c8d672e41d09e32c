//! Tunables of a child's network namespace are those that it set, and its parent's are others.

use nix::sched::{CloneFlags, unshare};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// Tunables, with values for the parent and for the child.
const TUNABLES: [(&str, [&str; 2]); 5] = [
    ("unix/max_dgram_qlen", ["33", "44"]),
    ("ipv4/conf/lo/tag", ["3", "4"]),
    ("ipv4/conf/all/rp_filter", ["1", "2"]),
    ("ipv4/ip_default_ttl", ["33", "44"]),
    ("ipv6/conf/default/hop_limit", ["33", "44"]),
];

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

fn set(which: usize) -> Verdict {
    for (name, values) in TUNABLES {
        std::fs::write(path(name), values[which])?;
    }
    Ok(())
}

fn check(which: usize) -> Verdict {
    for (name, values) in TUNABLES {
        let value = std::fs::read_to_string(path(name)).map_err(Failure::from)?;
        ensure_eq!(value.trim(), values[which], name);
    }
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        set(1)?;
        cx.post("child")?;
        cx.park()?;
        check(1)
    })?;
    cx.wait_for("child")?;
    set(0)?;
    cx.barrier()?;
    check(0)?;
    child.join()
}
