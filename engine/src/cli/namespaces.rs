//! Options about namespaces, which dump and restore have.

use std::path::PathBuf;

use crate::options::{ExternalNamespace, NamespaceOptions};
use crate::procfs::link::NamespaceType;

use super::UsageError;
use super::grammar::Given;

/// Types of namespaces that may live outside of the tree.
const EXTERNAL: [NamespaceType; 2] = [NamespaceType::Net, NamespaceType::Pid];
/// Types of namespaces that can be joined. Pids would be others.
const JOINED: [NamespaceType; 6] = [
    NamespaceType::Ipc,
    NamespaceType::Mnt,
    NamespaceType::Net,
    NamespaceType::Time,
    NamespaceType::User,
    NamespaceType::Uts,
];

pub(super) fn options(given: &Given) -> Result<NamespaceOptions, UsageError> {
    let all = given.values::<String>("external");
    let external = all.iter().filter(|key| is_external(key)).map(|key| external(key));
    let join = given.values::<String>("join-ns");
    let empty = given.values::<String>("empty-ns");
    if let Some(other) = empty.iter().find(|name| *name != "net") {
        let reason = "only network namespaces (net) can be left empty";
        return Err(UsageError::bad_value("--empty-ns NS", other, reason));
    }
    Ok(NamespaceOptions {
        external: external.collect::<Result<_, _>>()?,
        join: join.iter().map(|value| joined(value)).collect::<Result<_, _>>()?,
        empty_net: !empty.is_empty(),
        own_pids: given.flag("own-pidns"),
    })
}

/// Whether the key of an external resource is one of a namespace.
pub(super) fn is_external(key: &str) -> bool {
    EXTERNAL.iter().any(|kind| key.split_once('[').is_some_and(|(sort, _)| sort == kind.name()))
}

/// `net[INODE]:NAME`, `pid[INODE]:NAME`. At restore, the inode may be left out: names count.
fn external(key: &str) -> Result<ExternalNamespace, UsageError> {
    let parse = || {
        let (sort, rest) = key.split_once('[')?;
        let (inode, name) = rest.split_once("]:").filter(|(_, name)| !name.is_empty())?;
        let kind = EXTERNAL.into_iter().find(|kind| kind.name() == sort)?;
        let inode = if inode.is_empty() { 0 } else { inode.parse().ok()? };
        Some(ExternalNamespace { kind, inode, name: name.to_owned() })
    };
    let reason = "it must be net[INODE]:NAME or pid[INODE]:NAME";
    parse().ok_or_else(|| UsageError::bad_value("--external RESOURCE", key, reason))
}

/// `NS:PID` or `NS:FILE`.
fn joined(value: &str) -> Result<(NamespaceType, PathBuf), UsageError> {
    let (name, place) = value.split_once(':').filter(|(_, place)| !place.is_empty()).unwrap_or((value, ""));
    let kind = NamespaceType::ALL.into_iter().find(|kind| kind.name() == name);
    let reason = match kind {
        Some(NamespaceType::User) if place.contains(',') => {
            "ids for a user namespace that is joined are not supported: those of the images count"
        }
        Some(kind) if JOINED.contains(&kind) && !place.is_empty() => {
            let is_pid = place.bytes().all(|byte| byte.is_ascii_digit());
            let file = if is_pid { format!("/proc/{place}/ns/{name}") } else { place.to_owned() };
            return Ok((kind, file.into()));
        }
        Some(kind) if !JOINED.contains(&kind) => {
            "of all namespaces, only ipc, mnt, net, time, user and uts can be joined"
        }
        _ => "it must be the type of a namespace, a colon, and a pid or a file",
    };
    Err(UsageError::bad_value("--join-ns NS:PID|FILE", value, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_namespaces_have_names() {
        let of = |kind, inode, name: &str| Ok(ExternalNamespace { kind, inode, name: name.into() });
        assert_eq!(external("net[4026531840]:outer"), of(NamespaceType::Net, 4_026_531_840, "outer"));
        assert_eq!(external("pid[]:outer"), of(NamespaceType::Pid, 0, "outer"));
        for key in ["net[x]:y", "net[7]", "net[7]:", "pid:7"] {
            assert!(external(key).is_err(), "{key}");
        }
        assert!(is_external("net[7]:x") && !is_external("netdev[7]:x"));
    }

    #[test]
    fn namespaces_are_joined_by_pid_or_file() {
        assert_eq!(joined("net:7"), Ok((NamespaceType::Net, "/proc/7/ns/net".into())));
        assert_eq!(joined("uts:/run/x"), Ok((NamespaceType::Uts, "/run/x".into())));
        for value in ["net", "net:", "user:7,0,0", "pid:/x", "x:7"] {
            assert!(joined(value).is_err(), "{value}");
        }
    }
}
