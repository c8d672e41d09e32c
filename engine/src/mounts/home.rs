//! What a mount namespace of a part of a tree has from home, the one that the root of the tree is in.
//!
//! Such a namespace began as a copy of another (mount_namespaces(7)), so most of what is mounted in it is mounted at home, too.
//! All of that comes from there again, by the path where it is; so it can be of any type. A mount that receives events from one
//! at home is tied to that one, or shares its events, and must come from it and from no other of the same file system.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::model::{Mount, Namespace};
use super::surroundings::Surroundings;
use crate::procfs::mountinfo;

/// What the keys of these mounts begin with.
const KEY: &str = "home:";
/// What is between the place of a mount that others cover and how many of them are at the same place.
const COVERED: &str = "//";

/// Where something is mounted at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// What this path leads to.
    Path(PathBuf),
    /// What a mount has that cannot be seen.
    Covered(Covered),
}

/// A mount that others cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// How many younger ones are mounted there.
    pub younger: usize,
    /// What of it is meant, from its root.
    pub below: PathBuf,
}

impl Place {
    fn key(&self) -> Option<String> {
        Some(match self {
            Self::Path(path) => format!("{KEY}{}", path.to_str()?),
            Self::Covered(Covered { mountpoint, younger, below }) => {
                let below = Path::new("/").join(below);
                let below = if below == Path::new("/") { "" } else { below.to_str()? };
                format!("{KEY}{}{COVERED}{younger}{below}", mountpoint.to_str()?)
            }
        })
    }

    /// What a key means, if it is one of these.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        let text = key.strip_prefix(KEY)?;
        let Some((mountpoint, rest)) = text.rsplit_once(COVERED) else {
            return Some(Self::Path(text.into()));
        };
        let (younger, below) = rest.split_once('/').unwrap_or((rest, ""));
        let mountpoint = if mountpoint.is_empty() { "/" } else { mountpoint }.into();
        Some(Self::Covered(Covered { mountpoint, younger: younger.parse().ok()?, below: below.into() }))
    }
}

/// Gives all mounts keys that come from home. Ids of those whose events are all told by mounts of the tree, or by home.
pub(super) fn find(namespaces: &mut [Namespace], home: &Surroundings) -> BTreeSet<u32> {
    let mut tied = BTreeSet::new();
    for mount in namespaces.iter_mut().flat_map(|namespace| &mut namespace.mounts) {
        if mount.external.is_some() || mount.removed {
            continue;
        }
        let mut candidates: Vec<(&mountinfo::Mount, PathBuf)> = home.having(mount).collect();
        let (peers, slave) = (home.has_group(mount.shared), home.has_events_of(mount.master));
        let all = candidates.len();
        candidates.retain(|(other, _)| is_tied(mount, other, peers, slave));
        let found = !candidates.is_empty();
        if !found && all > 0 {
            // There is one, but its events would be others: it is refused for that.
            candidates = home.having(mount).collect();
        }
        // The one at the same place first; of the others the youngest, which nothing younger can cover.
        candidates.sort_by_key(|(other, _)| other.mountpoint != mount.mountpoint.as_bytes());
        let place = candidates.iter().find_map(|(other, below)| home.visible(other, below).map(Place::Path));
        let covered = || candidates.first().and_then(|(other, below)| home.covered(other, below));
        let Some(key) = place.or_else(|| covered().map(Place::Covered)).and_then(|place| place.key()) else {
            continue;
        };
        mount.external = Some(key);
        mount.has_peers_outside = found && peers;
        if found && (peers || slave) {
            tied.insert(mount.id);
        }
    }
    tied
}

/// Whether a mount has its events from this one at home, as far as it has any from there.
fn is_tied(mount: &Mount, home: &mountinfo::Mount, peers: bool, slave: bool) -> bool {
    let group = |id: Option<u32>| id.map(u32::cast_signed);
    let of_home = &home.propagation;
    let is_peer = group(mount.shared) == of_home.shared;
    let is_slave = [of_home.shared, of_home.master].contains(&group(mount.master));
    (!peers || is_peer) && (!slave || peers || is_slave)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_places() {
        let covered = |mountpoint: &str, younger, below: &str| {
            Place::Covered(Covered { mountpoint: mountpoint.into(), younger, below: below.into() })
        };
        let places = [
            Place::Path("/".into()),
            Place::Path("/a b".into()),
            covered("/dev/pts", 1, ""),
            covered("/", 2, "x/y"),
        ];
        let keys = places.clone().map(|place| place.key().unwrap());
        assert_eq!(keys, ["home:/", "home:/a b", "home:/dev/pts//1", "home:///2/x/y"]);
        assert_eq!(keys.map(|key| Place::of_key(&key).unwrap()), places);
        assert_eq!(Place::of_key("/a"), None);
        assert_eq!(Place::of_key("home:/a//x"), None);
    }
}
