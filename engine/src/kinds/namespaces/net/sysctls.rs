//! Tunables of a network namespace: all of `/proc/sys/net` (`Documentation/networking/ip-sysctl.rst`), which shows to each
//! namespace those that it has for itself.
//!
//! The format knows some of them, by their places in lists; they are written there, too. An image of our own has all by name,
//! and a restore writes those whose value is another one.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use proto::catalogue::{NETNS, STASIS_SYSCTLS};
use proto::messages::{NetDeviceEntry, NetnsEntry, StasisSysctlEntry, SysctlEntry, SysctlType};

use super::NetRefusal;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::procfs::id_map::{self, IdMaps, OVERFLOW};

const ROOT: &str = "/proc/sys/net";
/// More than any tunable has; longer ones are none that are set by hand.
const LONGEST: usize = 64 << 10;
/// How a new address of IPv6 is made: `IN6_ADDR_GEN_MODE_NONE` of `include/uapi/linux/if_link.h` is not at all.
const ADDRESS_MODE: &str = "addr_gen_mode";
const NO_ADDRESSES: &str = "1";

/// Tunables of IPv4 devices in the order of the format: by name, and behind them those of Linux 4.2 and later.
const CONF4: [&str; 30] = [
    "accept_local",
    "accept_redirects",
    "accept_source_route",
    "arp_accept",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "arp_notify",
    "bootp_relay",
    "disable_policy",
    "disable_xfrm",
    "force_igmp_version",
    "forwarding",
    "igmpv2_unsolicited_report_interval",
    "igmpv3_unsolicited_report_interval",
    "log_martians",
    "medium_id",
    "promote_secondaries",
    "proxy_arp",
    "proxy_arp_pvlan",
    "route_localnet",
    "rp_filter",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "src_valid_mark",
    "tag",
    "ignore_routes_with_linkdown",
    "drop_gratuitous_arp",
    "drop_unicast_in_l2_multicast",
];

/// Tunables of IPv6 devices in the order of the format: by name.
const CONF6: [&str; 42] = [
    "accept_dad",
    "accept_ra",
    "accept_ra_defrtr",
    "accept_ra_from_local",
    "accept_ra_min_hop_limit",
    "accept_ra_mtu",
    "accept_ra_pinfo",
    "accept_ra_rt_info_max_plen",
    "accept_ra_rtr_pref",
    "accept_redirects",
    "accept_source_route",
    "autoconf",
    "dad_transmits",
    "disable_ipv6",
    "drop_unicast_in_l2_multicast",
    "drop_unsolicited_na",
    "force_mld_version",
    "force_tllao",
    "forwarding",
    "hop_limit",
    "ignore_routes_with_linkdown",
    "keep_addr_on_down",
    "max_addresses",
    "max_desync_factor",
    "mldv1_unsolicited_report_interval",
    "mldv2_unsolicited_report_interval",
    "mtu",
    "ndisc_notify",
    "optimistic_dad",
    "proxy_ndp",
    "regen_max_retry",
    "router_probe_interval",
    "router_solicitation_delay",
    "router_solicitation_interval",
    "router_solicitations",
    STABLE_SECRET,
    "suppress_frag_ndisc",
    "temp_prefered_lft",
    "temp_valid_lft",
    "use_oif_addrs_only",
    "use_optimistic",
    "use_tempaddr",
];
/// The one of them that is a text.
const STABLE_SECRET: &str = "stable_secret";
const PING_GROUPS: &str = "ipv4/ping_group_range";
const UNIX_QUEUE: &str = "unix/max_dgram_qlen";
/// What every namespace begins with: nobody may send pings.
const NO_GROUPS: &str = "1\t0";

/// Paths below `/proc/sys/net`, and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sysctls(BTreeMap<String, String>);

/// Whether values that cannot be set are passed over (`--weak-sysctls`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    /// They end the restore.
    Told,
    /// They are logged.
    Logged,
}

impl Sysctls {
    /// All that this namespace has, whose user namespace has these ids.
    pub(super) fn read(ids: &IdMaps) -> Result<Self, Problem> {
        let mut found = Self::default();
        found.walk(Path::new(ROOT), 0)?;
        // We are outside of the user namespace.
        if let Some(groups) = found.0.remove(PING_GROUPS)
            && let Some(inside) = inside(&groups, ids)
        {
            found.0.insert(PING_GROUPS.to_owned(), inside);
        }
        Ok(found)
    }

    fn walk(&mut self, dir: &Path, depth: u32) -> Result<(), Problem> {
        /// `netfilter/nf_log/0` and `ipv4/conf/lo/tag` are the deepest.
        const DEEPEST: u32 = 4;
        if depth > DEEPEST {
            return Ok(());
        }
        let entries = std::fs::read_dir(dir).map_err(SysError::io("opendir"));
        for entry in entries.about(|| Object::Path(dir.to_owned()))?.filter_map(Result::ok) {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.walk(&path, depth + 1)?,
                Ok(kind) if kind.is_file() => self.add(&path),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds one, if it can be read and written.
    fn add(&mut self, path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = path.metadata().map_or(0, |facts| facts.permissions().mode());
        let Some(name) = path.strip_prefix(ROOT).ok().and_then(Path::to_str) else { return };
        if mode & 0o600 != 0o600 {
            return;
        }
        // A secret that was never set cannot be read (EIO).
        let Ok(value) = std::fs::read_to_string(path) else { return };
        if value.len() <= LONGEST {
            self.0.insert(name.to_owned(), value.trim_end_matches('\n').to_owned());
        }
    }

    fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    fn list(&self, family: &str, device: &str, names: &[&str]) -> Vec<SysctlEntry> {
        let entry = |name: &&str| {
            let value = self.get(&format!("{family}/conf/{device}/{name}"));
            if *name == STABLE_SECRET {
                return text(value.map(ToOwned::to_owned));
            }
            let iarg = value.and_then(|value| value.parse().ok());
            SysctlEntry { r#type: SysctlType::Ctl32.into(), iarg: Some(iarg.unwrap_or_default()), sarg: None }
        };
        names.iter().map(entry).collect()
    }

    fn list_of_family4(&self, device: &str) -> Vec<SysctlEntry> {
        self.list("ipv4", device, &CONF4)
    }

    /// None, if devices have no IPv6.
    fn list_of_family6(&self, device: &str) -> Vec<SysctlEntry> {
        let has_any = self.get(&format!("ipv6/conf/{device}/disable_ipv6")).is_some();
        if has_any { self.list("ipv6", device, &CONF6) } else { Vec::new() }
    }

    /// What the format has of a namespace.
    pub(super) fn entry(&self) -> NetnsEntry {
        let queue = self.get(UNIX_QUEUE).and_then(|value| value.parse().ok());
        let queue = SysctlEntry { r#type: SysctlType::Ctl32.into(), iarg: queue, sarg: None };
        let groups = self.get(PING_GROUPS).filter(|value| *value != NO_GROUPS).map(ToOwned::to_owned);
        NetnsEntry {
            def_conf4: self.list_of_family4("default"),
            all_conf4: self.list_of_family4("all"),
            def_conf6: self.list_of_family6("default"),
            all_conf6: self.list_of_family6("all"),
            unix_conf: vec![queue],
            ipv4_sysctl: vec![text(groups)],
            ..NetnsEntry::default()
        }
    }

    /// Fills in what the format has of a device.
    pub(super) fn fill(&self, device: &mut NetDeviceEntry) {
        device.conf4 = self.list_of_family4(&device.name);
        device.conf6 = self.list_of_family6(&device.name);
    }

    pub(super) fn dump(&self, id: u32, images: &mut NewImages) -> Result<(), Problem> {
        let entry = |(path, value): (&String, &String)| StasisSysctlEntry {
            path: path.clone(),
            value: value.clone(),
        };
        images.write(&STASIS_SYSCTLS, id.into(), &self.0.iter().map(entry).collect::<Vec<_>>())
    }

    /// Those of an image set: ours, or as far as the format goes.
    pub(super) fn from_images(images: &Images, id: u32, devices: &[NetDeviceEntry]) -> Result<Self, Problem> {
        let mut found = Self::default();
        if images.has(&STASIS_SYSCTLS, id.into()) {
            let entries: Vec<StasisSysctlEntry> = images.read(&STASIS_SYSCTLS, id.into())?;
            found.0.extend(entries.into_iter().map(|entry| (entry.path, entry.value)));
            return Ok(found);
        }
        let entry: NetnsEntry = images.read_single(&NETNS, id.into())?;
        found.take("ipv4", "default", &CONF4, &entry.def_conf4);
        found.take("ipv4", "all", &CONF4, &entry.all_conf4);
        found.take("ipv6", "default", &CONF6, &entry.def_conf6);
        found.take("ipv6", "all", &CONF6, &entry.all_conf6);
        for device in devices {
            found.take("ipv4", &device.name, &CONF4, &device.conf4);
            found.take("ipv6", &device.name, &CONF6, &device.conf6);
        }
        found.set(UNIX_QUEUE.into(), entry.unix_conf.first());
        found.set(PING_GROUPS.into(), entry.ipv4_sysctl.first());
        Ok(found)
    }

    fn take(&mut self, family: &str, device: &str, names: &[&str], values: &[SysctlEntry]) {
        for (name, value) in names.iter().zip(values) {
            self.set(format!("{family}/conf/{device}/{name}"), Some(value));
        }
    }

    fn set(&mut self, path: String, entry: Option<&SysctlEntry>) {
        let value = entry.and_then(|entry| entry.sarg.clone().or_else(|| entry.iarg.map(|n| n.to_string())));
        if let Some(value) = value {
            self.0.insert(path, value);
        }
    }

    /// Writes those that are of no device, before there are devices: these begin with the values of `default`.
    pub(super) fn restore_general(&self, failing: Failing) -> Result<(), Problem> {
        let mut general: Vec<_> = self.0.iter().filter(|(path, _)| device_of(path).is_none()).collect();
        general.sort_by_key(|(path, _)| rank(path));
        write_all(&general, failing)
    }

    /// Writes those of devices, which make no addresses of their own for now ([`Self::let_addresses_be_made`]).
    pub(super) fn restore_devices(&self, failing: Failing) -> Result<(), Problem> {
        let own: Vec<_> = self.0.iter().filter(|(path, _)| device_of(path).is_some()).collect();
        let none = NO_ADDRESSES.to_owned();
        let modes = own.iter().filter(|(path, _)| path.ends_with(ADDRESS_MODE));
        let off: Vec<_> = modes.map(|(path, _)| (*path, &none)).collect();
        write_all(&off, failing)?;
        let others: Vec<_> = own.into_iter().filter(|(path, _)| !path.ends_with(ADDRESS_MODE)).collect();
        write_all(&others, failing)?;
        // A secret chooses the way that is made with it.
        write_all(&off, failing)
    }

    /// Lets devices make addresses as they did.
    pub(super) fn let_addresses_be_made(&self, failing: Failing) -> Result<(), Problem> {
        let modes =
            self.0.iter().filter(|(path, _)| device_of(path).is_some() && path.ends_with(ADDRESS_MODE));
        write_all(&modes.collect::<Vec<_>>(), failing)
    }
}

/// A range of groups as the namespace itself sees it; none, if it has no such groups.
fn inside(groups: &str, ids: &IdMaps) -> Option<String> {
    let inside =
        |word: &str| Some(id_map::inside(&ids.gids, word.parse().ok()?)).filter(|id| *id != OVERFLOW);
    let (from, to) = groups.split_once('\t')?;
    Some(format!("{}\t{}", inside(from)?, inside(to)?))
}

fn text(sarg: Option<String>) -> SysctlEntry {
    SysctlEntry { r#type: SysctlType::CtlStr.into(), iarg: None, sarg }
}

/// The device that a tunable is of.
fn device_of(path: &str) -> Option<&str> {
    let mut words = path.split('/');
    let (_family, group, device) = (words.next()?, words.next()?, words.next()?);
    words.next()?;
    (matches!(group, "conf" | "neigh") && !matches!(device, "all" | "default")).then_some(device)
}

/// What sets others comes before them.
fn rank(path: &str) -> u32 {
    match path {
        "ipv4/ip_forward" => 0,
        _ if path.contains("/conf/all/") => 1,
        _ if path.contains("/conf/default/") => 2,
        _ => 3,
    }
}

/// Writes values. What fails is tried once more behind the others: of two limits, one must not exceed the other.
fn write_all(values: &[(&String, &String)], failing: Failing) -> Result<(), Problem> {
    let failed: Vec<_> = values.iter().filter(|(path, value)| write(path, value).is_err()).collect();
    for (path, value) in failed {
        match write(path, value) {
            Err(problem) if failing == Failing::Logged => log::warn!("net/{path}: {}", problem.cause),
            done => done?,
        }
    }
    Ok(())
}

/// Writes a value, unless it is so already.
fn write(path: &str, value: &str) -> Result<(), Problem> {
    let full = full(path).ok_or_else(|| Problem::new(NetRefusal::SysctlPath))?;
    let about = || Object::Path(full.clone());
    let now = std::fs::read_to_string(&full).unwrap_or_default();
    if now.split_whitespace().eq(value.split_whitespace()) {
        return Ok(());
    }
    let written = std::fs::write(&full, value).map_err(|e| NetRefusal::Sysctl(SysError::io("write")(e)));
    written.about(about).while_trying_to("set a tunable")
}

/// The place of a tunable; none, if that would be elsewhere.
fn full(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let inside = path.components().all(|component| matches!(component, Component::Normal(_)));
    inside.then(|| Path::new(ROOT).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunables_of_devices_are_told_from_others() {
        assert_eq!(device_of("ipv4/conf/lo/tag"), Some("lo"));
        assert_eq!(device_of("ipv6/neigh/eth0/retrans_time"), Some("eth0"));
        for general in ["ipv4/conf/all/tag", "ipv6/neigh/default/app_solicit", "ipv4/ip_forward", "unix/x"] {
            assert_eq!(device_of(general), None);
        }
    }

    #[test]
    fn groups_are_those_inside() {
        assert_eq!(inside("1\t0", &IdMaps::default()).as_deref(), Some("1\t0"));
        let gids = vec![id_map::Extent { inside: 0, outside: 1000, count: 10 }];
        let ids = IdMaps { gids, ..IdMaps::default() };
        assert_eq!(inside("1001\t1009", &ids).as_deref(), Some("1\t9"));
        assert_eq!(inside("1\t0", &ids), None);
    }

    #[test]
    fn no_path_leads_elsewhere() {
        assert_eq!(full("ipv4/tcp_ecn"), Some(PathBuf::from("/proc/sys/net/ipv4/tcp_ecn")));
        for path in ["../kernel/core_pattern", "/etc/passwd", "ipv4/../../kernel/panic"] {
            assert_eq!(full(path), None);
        }
    }

    #[test]
    fn lists_of_the_format_are_read_as_they_are_written() {
        let mut before = Sysctls::default();
        for (path, value) in [
            ("ipv4/conf/lo/tag", "7"),
            ("ipv6/conf/lo/disable_ipv6", "1"),
            ("ipv6/conf/lo/use_tempaddr", "-1"),
        ] {
            before.0.insert(path.into(), value.into());
        }
        let mut device = NetDeviceEntry { name: "lo".into(), ..NetDeviceEntry::default() };
        before.fill(&mut device);
        let mut after = Sysctls::default();
        after.take("ipv4", "lo", &CONF4, &device.conf4);
        after.take("ipv6", "lo", &CONF6, &device.conf6);
        for (path, value) in before.0 {
            assert_eq!(after.get(&path), Some(value.as_str()));
        }
    }
}
