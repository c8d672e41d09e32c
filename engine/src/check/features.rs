//! The list of features, under the names that callers of CRIU ask for.

use super::{Answer, Feature, Tier, capabilities, files, memory, namespaces, network, tracing};

const fn basic(name: &'static str, about: &'static str, probe: fn() -> Answer) -> Feature {
    Feature { name, about, tier: Tier::Basic, probe }
}

const fn useful(name: &'static str, about: &'static str, probe: fn() -> Answer) -> Feature {
    Feature { name, about, tier: Tier::Useful, probe }
}

const fn extra(name: &'static str, about: &'static str, probe: fn() -> Answer) -> Feature {
    Feature { name, about, tier: Tier::Extra, probe }
}

const fn young(name: &'static str, about: &'static str, probe: fn() -> Answer) -> Feature {
    Feature { name, about, tier: Tier::Experimental, probe }
}

const fn named(name: &'static str, about: &'static str, probe: fn() -> Answer) -> Feature {
    Feature { name, about, tier: Tier::Named, probe }
}

/// All features, in the order of the report.
#[rustfmt::skip]
pub(super) static FEATURES: &[Feature] = &[
    basic("capabilities", "permissions of this process", capabilities::probe),
    basic("ptrace_seize", "stop a process without a signal", tracing::seize),
    basic("ptrace_peeksiginfo", "see queued signals", tracing::pending_signals),
    basic("get_robust_list", "see a thread's robust futexes", tracing::robust_list),
    basic("kcmp", "see which descriptors are shared", tracing::kcmp),
    basic("clone3_set_tid", "create a process with a given pid", tracing::clone3_set_tid),
    basic("set_mm_map", "set the bounds of heap, stack and arguments", tracing::set_mm_map),
    basic("get_tid_address", "see the address that a thread clears at its end", tracing::tid_address),
    basic("pagemap", "see which pages are there", memory::pagemap_readable),
    useful("pagemap_scan", "the same of many pages at once", memory::pagemap_scan),
    basic("map_files", "open mapped files", memory::map_files),
    basic("mnt_id", "see which mount a descriptor belongs to", files::mnt_id),
    basic("ptrace_get_rseq_conf", "see a thread's restartable sequences", tracing::rseq_configuration),
    useful("uffd", "fill memory on demand", memory::userfaultfd),
    useful("unix_diag", "look unix sockets up", network::unix_diag),

    extra("rseq", "restartable sequences survive", tracing::rseq_configuration),
    extra("mem_dirty_track", "see which pages were written to", memory::dirty_tracking),
    extra("uffd-noncoop", "fill memory on demand of a process that does not know", memory::userfaultfd_events),
    extra("aio_remap", "move the ring of asynchronous I/O", memory::aio_remap),
    extra("can_map_vdso", "map the vdso where it was", tracing::map_vdso),
    extra("breakpoints", "hardware breakpoints", tracing::breakpoints),
    extra("kcmp_epoll", "find the target of an epoll", tracing::kcmp_epoll),
    extra("pidfd_store", "take a descriptor from another process", tracing::pidfd),
    extra("seccomp_suspend", "suspend seccomp filters", tracing::suspend_seccomp),
    extra("seccomp_filters", "see seccomp filters", tracing::seccomp_filters),
    extra("timerfd", "set the ticks of a timerfd", files::timerfd_ticks),
    extra("fdinfo_lock", "see locks of a descriptor", files::fdinfo_lock),
    extra("openat2", "open without following links", files::openat2),
    extra("loginuid", "set the login uid", files::loginuid),
    extra("userns", "user namespaces", namespaces::user),
    extra("cgroupns", "cgroup namespaces", namespaces::cgroup),
    extra("timens", "time namespaces", namespaces::time),
    extra("time", "time namespaces", namespaces::time),
    extra("external_net_ns", "enter another network namespace", namespaces::external_net),
    extra("tun", "tun devices", files::tun),
    extra("tcp_half_closed", "repair TCP connections", network::tcp_repair),
    extra("sk_ns", "see a socket's network namespace", network::socket_namespace),
    extra("sk_unix_file", "see the file of a unix socket", network::unix_file),
    extra("get_sock_mnt", "see the mount of a unix socket's file", network::socket_mount),
    extra("net_diag_raw", "look raw sockets up", network::raw_diag),
    extra("nsid", "see ids of network namespaces", network::nsid),
    extra("link_nsid", "see the namespace of a link's other end", network::nsid),
    extra("newifindex", "create a link with a given index", network::new_interface_index),
    extra("ipv6_freebind", "bind IPv6 addresses that are not there yet", network::freebind),
    extra("ipv4_in_v6", "IPv4 addresses on IPv6 sockets", network::mapped_ipv4),
    extra("nftables", "nftables", network::nftables),
    extra("network_lock_nftables", "hold packets back with nftables", network::nftables),

    young("move_mount_set_group", "restore mounts that are shared or slaves", files::move_mount_set_group),
    young("membarrier_get_registrations", "see memory barrier registrations", tracing::membarrier_registrations),
    young("timer_cr_ids", "create timers with given ids", tracing::timer_restore_ids),
    young("pagemap_scan_guard_pages", "see guard pages", memory::guard_pages),
    young("overlayfs_maps", "see mapped files of an overlay by their own names", files::overlayfs_maps),

    // These depend on how a system is set up, not on whether its kernel is good.
    named("compat_cr", "32-bit processes", tracing::compat),
    named("autofs", "autofs mounts", files::autofs),
    named("lsm", "a security module with profiles", files::lsm),
    named("apparmor_stacking", "stacked apparmor profiles", files::apparmor_stacking),
    named("has_ipt_legacy", "iptables in its older form", files::legacy_iptables),
    named("network_lock_iptables", "hold packets back with iptables", files::iptables),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The names in CLI.md, which callers ask for.
    const OWED: &str = "mem_dirty_track, aio_remap, timerfd, tun, userns, fdinfo_lock, seccomp_suspend, \
        seccomp_filters, loginuid, cgroupns, autofs, tcp_half_closed, lsm, uffd, uffd-noncoop, can_map_vdso, sk_ns, \
        sk_unix_file, net_diag_raw, nsid, link_nsid, kcmp_epoll, time, external_net_ns, timens, clone3_set_tid, \
        newifindex, nftables, has_ipt_legacy, pidfd_store, apparmor_stacking, network_lock_iptables, \
        network_lock_nftables, rseq, ptrace_get_rseq_conf, ipv6_freebind, membarrier_get_registrations, \
        get_sock_mnt, move_mount_set_group, openat2, mnt_id, compat_cr, overlayfs_maps, pagemap_scan, \
        pagemap_scan_guard_pages, timer_cr_ids, breakpoints, unix_diag, ipv4_in_v6";

    #[test]
    fn every_name_that_callers_use_is_there_once() {
        let names: HashSet<_> = FEATURES.iter().map(|feature| feature.name).collect();
        assert_eq!(names.len(), FEATURES.len());
        for owed in OWED.split(", ") {
            assert!(names.contains(owed), "{owed}");
        }
    }
}
