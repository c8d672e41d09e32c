//! What an entry needs of the machine, probed by looking, never by version.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// One thing that the machine must have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Need {
    /// The runner's effective user id is 0.
    Root,
    /// Raising hard limits and the like.
    SysResource,
    /// Network administration.
    NetAdmin,
    /// Connection tracking in the kernel.
    Conntrack,
    /// ICMP sockets that need no privilege, for our group (`net.ipv4.ping_group_range`).
    Ping,
    /// AVX registers.
    Avx,
    /// AVX-512 registers.
    Avx512,
    /// AMX tiles, for whoever asks for them.
    Amx,
    /// Protection keys for memory.
    Pku,
    /// The kernel keeps login user ids.
    Loginuid,
    /// Transparent huge pages.
    Thp,
    /// Twelve free hugetlb pages of 2 MiB (`sysctl vm.nr_hugepages`).
    Hugetlb,
    /// A free hugetlb page of 1 GiB.
    Hugetlb1g,
    /// Breakpoints of the kernel in programs, made by tracefs.
    Uprobes,
    /// Restartable sequences, registered by the C library.
    Rseq,
    /// Hierarchies of version 1 of control groups, at /sys/fs/cgroup.
    Cgroup1,
    /// That of version 2, anywhere.
    Cgroup2,
    /// The controller net_prio of version 1 of control groups, for a hierarchy of its own.
    NetPrio,
    /// A Python 3 interpreter.
    Python3,
    /// TUN and TAP devices.
    Tun,
    /// That it is restored: what it expects, only a restore does.
    Restore,
    /// A program on the search path.
    Program(String),
    /// Network devices of a kind, as ip(8) names it.
    Link(String),
}

const WORDS: &[(&str, Need)] = &[
    ("root", Need::Root),
    ("sys-resource", Need::SysResource),
    ("net-admin", Need::NetAdmin),
    ("conntrack", Need::Conntrack),
    ("ping", Need::Ping),
    ("avx", Need::Avx),
    ("avx512", Need::Avx512),
    ("amx", Need::Amx),
    ("pku", Need::Pku),
    ("loginuid", Need::Loginuid),
    ("thp", Need::Thp),
    ("hugetlb", Need::Hugetlb),
    ("hugetlb-1g", Need::Hugetlb1g),
    ("uprobes", Need::Uprobes),
    ("rseq", Need::Rseq),
    ("cgroup1", Need::Cgroup1),
    ("cgroup2", Need::Cgroup2),
    ("net-prio", Need::NetPrio),
    ("python3", Need::Python3),
    ("tun", Need::Tun),
    ("restore", Need::Restore),
];

impl TryFrom<String> for Need {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        if let Some(name) = word.strip_prefix("program:").filter(|name| !name.is_empty()) {
            return Ok(Self::Program(name.to_owned()));
        }
        if let Some(kind) = word.strip_prefix("link:").filter(|kind| !kind.is_empty()) {
            return Ok(Self::Link(kind.to_owned()));
        }
        WORDS.iter().find(|(known, _)| *known == word).map(|(_, need)| need.clone()).ok_or_else(|| {
            let known: Vec<&str> = WORDS.iter().map(|(known, _)| *known).collect();
            format!("unknown need `{word}`; known: {}, program:NAME, link:KIND", known.join(", "))
        })
    }
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Program(name) => return write!(f, "program:{name}"),
            Self::Link(kind) => return write!(f, "link:{kind}"),
            _ => {}
        }
        let word = WORDS.iter().find(|(_, need)| need == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

impl JsonSchema for Need {
    fn schema_name() -> Cow<'static, str> {
        "Need".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let known: Vec<&str> = WORDS.iter().map(|(known, _)| *known).collect();
        json_schema!({
            "description": "What the machine must have.",
            "type": "string",
            "pattern": format!("^({}|program:.+|link:.+)$", known.join("|")),
        })
    }
}

impl Need {
    /// Says what is missing, or nothing if the need is met.
    pub fn missing(&self) -> Option<String> {
        match self {
            // That is up to whoever runs it.
            Self::Restore => None,
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
            Self::SysResource => without_capability(24, "CAP_SYS_RESOURCE"),
            Self::NetAdmin => without_capability(12, "CAP_NET_ADMIN"),
            Self::Conntrack => {
                absent("/proc/sys/net/netfilter/nf_conntrack_max", "the kernel tracks no connections")
            }
            Self::Ping => without_ping(),
            Self::Avx => (!std::arch::is_x86_feature_detected!("avx")).then(|| "no AVX".to_owned()),
            Self::Avx512 => {
                (!std::arch::is_x86_feature_detected!("avx512f")).then(|| "no AVX-512".to_owned())
            }
            Self::Amx => without_flag("amx_tile", "no AMX"),
            Self::Pku => without_flag("ospke", "no protection keys"),
            Self::Loginuid => absent("/proc/self/loginuid", "the kernel keeps no login user ids"),
            Self::Thp => absent(
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "the kernel has no transparent huge pages",
            ),
            Self::Hugetlb => without_huge_pages(2048, 12),
            Self::Hugetlb1g => without_huge_pages(1 << 20, 1),
            Self::Uprobes => absent(
                "/sys/kernel/tracing/uprobe_events",
                "no uprobes, or tracefs is not mounted at /sys/kernel/tracing",
            ),
            Self::Tun => absent("/dev/net/tun", "no /dev/net/tun"),
            Self::Rseq => (!libc_registers_rseq()).then(|| "the C library registers no rseq area".to_owned()),
            Self::Cgroup1 => without_cgroups("cgroup"),
            Self::Cgroup2 => without_cgroups("cgroup2"),
            Self::NetPrio => without_lone_controller("net_prio"),
            Self::Python3 => without_program("python3"),
            Self::Program(name) => without_program(name),
            Self::Link(kind) => without_link(kind),
        }
    }
}

/// As `/proc/cpuinfo` calls it: what the processor has and the kernel lets programs use.
fn without_flag(flag: &str, reason: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    (!flags.split_whitespace().any(|known| known == flag)).then(|| reason.to_owned())
}

fn absent(path: &str, reason: &str) -> Option<String> {
    (!Path::new(path).exists()).then(|| reason.to_owned())
}

fn without_huge_pages(kilobytes: u64, wanted: u64) -> Option<String> {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB/free_hugepages");
    let free = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    (free < wanted)
        .then(|| format!("{free} free hugetlb pages of {kilobytes} kB, {wanted} are needed (nr_hugepages)"))
}

/// Whether a controller can be mounted in a hierarchy for itself: it is in none, or alone in one. A line of `/proc/cgroups` has
/// name, hierarchy, number of groups, and whether it is enabled (cgroups(7)).
fn without_lone_controller(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let hierarchy = lines.iter().find_map(|words| match words[..] {
        [known, hierarchy, _, "1"] if known == name => Some(hierarchy),
        _ => None,
    });
    let others = |hierarchy| lines.iter().filter(|words| words.get(1) == Some(&hierarchy)).count();
    let is_alone = hierarchy.is_some_and(|hierarchy| hierarchy == "0" || others(hierarchy) == 1);
    (!is_alone).then(|| format!("no controller {name} for a hierarchy of its own"))
}

fn without_cgroups(fstype: &str) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_there = mounts.lines().any(|line| {
        let (at, what) = line.split_once(" - ").unwrap_or_default();
        let is_writable = at.split(' ').nth(5).is_some_and(|options| options.starts_with("rw"));
        is_writable && at.contains(" /sys/fs/cgroup") && what.starts_with(&format!("{fstype} "))
    });
    (!is_there).then(|| format!("no writable {fstype} hierarchy below /sys/fs/cgroup"))
}

/// Numbers are those of linux/capability.h.
fn without_capability(number: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    (effective & (1 << number) == 0).then(|| format!("no {name}"))
}

fn without_ping() -> Option<String> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let ping = SockProtocol::Icmp;
    let made = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, ping);
    made.is_err().then(|| "net.ipv4.ping_group_range lets nobody have ICMP sockets".to_owned())
}

fn libc_registers_rseq() -> bool {
    // SAFETY: dlsym takes a handle constant and a terminated name, and looks only at its own tables.
    let size = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()) };
    // SAFETY: glibc documents __rseq_size as an object of type const unsigned int.
    !size.is_null() && unsafe { *size.cast::<u32>() } != 0
}

/// Asks for a device without what it needs, in a network namespace for this alone, which has a module loaded if need be: the kernel has
/// other words for that than for a kind that it does not know.
fn without_link(kind: &str) -> Option<String> {
    let mut ask = std::process::Command::new("unshare");
    let output = ask.args(["--net", "ip", "link", "add", "name", "probe", "type", kind]).output();
    let is_unknown =
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("Unknown device type"));
    is_unknown.then(|| format!("the kernel has no network devices of kind {kind}"))
}

fn without_program(name: &str) -> Option<String> {
    find_program(name).is_none().then(|| format!("no program {name}"))
}

/// Finds a program on the search path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up() {
        assert_eq!(Need::Program("sh".to_owned()).missing(), None);
        assert_eq!(
            Need::Program("no-such-thing".to_owned()).missing().as_deref(),
            Some("no program no-such-thing")
        );
    }

    #[test]
    fn an_empty_program_name_is_unknown() {
        assert!(Need::try_from("program:".to_owned()).is_err());
    }
}
