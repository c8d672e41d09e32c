//! Files of a group that are settings: which there are, how each is written again, and in what order.
//!
//! From `Documentation/admin-guide/cgroup-v1/*.rst` and `cgroup-v2.rst`.

use super::Group;
use crate::error::SysError;

/// How a setting is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is read.
    Text,
    /// Line by line, one write each.
    Lines,
    /// The number in its first line only.
    FirstNumber,
    /// Words, each with a plus sign.
    Added,
    /// `devices.list`, which is written to `devices.allow` when all is denied.
    Devices,
    /// Whether the group is frozen, which is the last that is set.
    Frozen,
}

/// Settings, in the order in which they are set.
pub(super) const SETTINGS: &[(&str, Form)] = &[
    ("cgroup.clone_children", Form::Text),
    ("notify_on_release", Form::Text),
    ("cgroup.type", Form::Text),
    ("cgroup.max.descendants", Form::Text),
    ("cgroup.max.depth", Form::Text),
    ("cpuset.cpus", Form::Text),
    ("cpuset.mems", Form::Text),
    ("cpuset.cpus.partition", Form::Text),
    ("cpuset.memory_migrate", Form::Text),
    ("cpuset.cpu_exclusive", Form::Text),
    ("cpuset.mem_exclusive", Form::Text),
    ("cpuset.mem_hardwall", Form::Text),
    ("cpuset.memory_spread_page", Form::Text),
    ("cpuset.memory_spread_slab", Form::Text),
    ("cpuset.sched_load_balance", Form::Text),
    ("cpuset.sched_relax_domain_level", Form::Text),
    ("cpu.shares", Form::Text),
    ("cpu.cfs_period_us", Form::Text),
    ("cpu.cfs_quota_us", Form::Text),
    ("cpu.cfs_burst_us", Form::Text),
    ("cpu.rt_period_us", Form::Text),
    ("cpu.rt_runtime_us", Form::Text),
    ("cpu.idle", Form::Text),
    ("cpu.weight", Form::Text),
    ("cpu.max", Form::Text),
    ("cpu.max.burst", Form::Text),
    ("cpu.uclamp.min", Form::Text),
    ("cpu.uclamp.max", Form::Text),
    ("memory.use_hierarchy", Form::Text),
    ("memory.limit_in_bytes", Form::Text),
    ("memory.memsw.limit_in_bytes", Form::Text),
    ("memory.kmem.tcp.limit_in_bytes", Form::Text),
    ("memory.soft_limit_in_bytes", Form::Text),
    ("memory.swappiness", Form::Text),
    ("memory.oom_control", Form::FirstNumber),
    ("memory.move_charge_at_immigrate", Form::Text),
    ("memory.min", Form::Text),
    ("memory.low", Form::Text),
    ("memory.high", Form::Text),
    ("memory.max", Form::Text),
    ("memory.swap.high", Form::Text),
    ("memory.swap.max", Form::Text),
    ("memory.zswap.max", Form::Text),
    ("memory.zswap.writeback", Form::Text),
    ("memory.oom.group", Form::Text),
    ("blkio.weight", Form::Text),
    ("blkio.bfq.weight", Form::Text),
    ("blkio.throttle.read_bps_device", Form::Lines),
    ("blkio.throttle.write_bps_device", Form::Lines),
    ("blkio.throttle.read_iops_device", Form::Lines),
    ("blkio.throttle.write_iops_device", Form::Lines),
    ("io.weight", Form::Lines),
    ("io.max", Form::Lines),
    ("io.latency", Form::Lines),
    ("pids.max", Form::Text),
    ("net_cls.classid", Form::Text),
    ("net_prio.ifpriomap", Form::Lines),
    ("hugetlb.2MB.limit_in_bytes", Form::Text),
    ("hugetlb.1GB.limit_in_bytes", Form::Text),
    ("hugetlb.2MB.max", Form::Text),
    ("hugetlb.1GB.max", Form::Text),
    ("rdma.max", Form::Lines),
    ("misc.max", Form::Lines),
    ("cgroup.subtree_control", Form::Added),
    ("devices.list", Form::Devices),
    ("freezer.state", Form::Frozen),
    ("cgroup.freeze", Form::Frozen),
];

/// How a setting is written; those that are not in the table as they are read.
pub(super) fn form(name: &str) -> Form {
    SETTINGS.iter().find(|(known, _)| *known == name).map_or(Form::Text, |(_, form)| *form)
}

/// Gives a group a setting that it does not have already.
pub(super) fn set(group: &Group, name: &str, form: Form, value: &str) -> Result<(), SysError> {
    let is = group.read(name)?.unwrap_or_default();
    if is.trim_end() == value.trim_end() {
        return Ok(());
    }
    match form {
        Form::Text | Form::Frozen => group.write(name, value),
        Form::FirstNumber => {
            let number = |text: &str| text.lines().next()?.split_whitespace().last().map(str::to_owned);
            match (number(value), number(&is)) {
                (Some(value), is) if Some(&value) != is.as_ref() => group.write(name, &value),
                _ => Ok(()),
            }
        }
        Form::Lines => value.lines().try_for_each(|line| group.write(name, line)),
        Form::Added => value.split_whitespace().try_for_each(|word| group.write(name, &format!("+{word}"))),
        Form::Devices => {
            group.write("devices.deny", "a")?;
            value.lines().try_for_each(|line| group.write("devices.allow", line))
        }
    }
}
