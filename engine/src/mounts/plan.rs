//! What is mounted from what: found out from the images alone, before anything is made.
//!
//! Every mount is a clone of a *source*: a file system that is made once, or something that is mounted outside. Sharing is
//! copied from *groups*: mounts that nobody sees, one for each way to propagate events.

use std::path::PathBuf;

use proto::catalogue::{MNTS, TMPFS_DEV, TMPFS_IMG};
use proto::messages::MntEntry;

use super::classify::{ROOT_KEY, skip};
use super::fs_types::{self, Origin};
use super::home::{Covered, Place};
use super::model::{Mount, Namespace};
use super::refusal::MountRefusal;
use super::surroundings::Surroundings;
use crate::error::{Object, Problem};
use crate::image::{Images, invalid};
use crate::options::MountOptions;

/// Where clones are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What it is.
    pub kind: SourceKind,
    /// The device number that its file system had.
    pub dev: u32,
    /// The folder of the file system that it shows.
    pub root: String,
    /// The mounts that it was found by.
    pub mounts: Vec<u32>,
    /// The same, for messages.
    pub object: Object,
}

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A file system that is made new in the new namespaces, and filled from an archive if it has one.
    Inside(FileSystem, Option<String>),
    /// One that is made of folders of the others.
    Layers(FileSystem),
    /// One that is made outside: it is there once for the machine, or is made of folders that are there.
    /// What an archive has that is not there is made.
    Machine(FileSystem, Option<String>),
    /// What is at this path outside.
    Outside(PathBuf, Demand),
    /// What is outside, too, but covered.
    Covered(Covered),
}

/// What must be at a path outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// Anything.
    Any,
    /// A mount point.
    MountPoint,
    /// A file system of this type.
    Type(String),
}

/// What fsopen(2) needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type.
    pub fstype: String,
    /// What it is mounted from.
    pub source: String,
    /// Its options.
    pub options: String,
    /// Its flags, `MS_*`.
    pub flags: u32,
}

/// One way to propagate events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The source that has all that its mounts have.
    pub source: usize,
    /// Its number in the images, if it is a peer group and not only a way to be a slave.
    pub shared: Option<u32>,
    /// The number of its master there, if its mounts are slaves.
    pub master: Option<u32>,
    /// The source that its mounts are clones of and have their events from, outside, each for itself.
    pub tie: Option<usize>,
    /// Where its events come from.
    pub events: Events,
}

/// A way to propagate events, as images tell it: the numbers of a peer group and of its master, and the tie of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    shared: Option<u32>,
    master: Option<u32>,
    tie: Option<usize>,
}

impl Group {
    fn way(&self) -> Way {
        Way { shared: self.shared, master: self.master, tie: self.tie }
    }
}

/// Where the events of a group come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    /// Only from its members.
    Own,
    /// From its members, which are also the peers of its source outside.
    Peers,
    /// Also from this group, which comes before it.
    Group(usize),
    /// Also from the peers of its source outside.
    Outside,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMount {
    /// What it was.
    pub mount: Mount,
    /// What it is a clone of.
    pub source: usize,
    /// Which part of that it shows.
    pub below: PathBuf,
    /// How it propagates events; it is private otherwise.
    pub group: Option<usize>,
    /// Where it is mounted, from the root of its parent.
    pub place: PathBuf,
    /// The archive of its root, if that was removed.
    pub removed: Option<String>,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNamespace {
    /// Its number in the images.
    pub id: u32,
    /// The mounts, in the order of the images: by age.
    pub mounts: Vec<PlannedMount>,
    /// The order in which they are put on each other: parents before what is on them; of those on one parent, what others
    /// cover first. The first is the root.
    pub order: Vec<usize>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What is mounted.
    pub sources: Vec<Source>,
    /// How events go.
    pub groups: Vec<Group>,
    /// Where it is mounted.
    pub namespaces: Vec<PlannedNamespace>,
}

/// Reads the tables of these namespaces, without what the user does not want.
pub fn read(images: &Images, ids: &[u32], options: &MountOptions) -> Result<Vec<Namespace>, Problem> {
    let table = |id: &u32| {
        let entries: Vec<MntEntry> = images.read(&MNTS, u64::from(*id))?;
        let mut namespace = Namespace::from_entries(*id, &entries)?;
        skip(&mut namespace, options);
        Ok(namespace)
    };
    ids.iter().map(table).collect()
}

/// What a file system of control groups that is made new shows as its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupRoot {
    /// That of the hierarchy: the tree has no cgroup namespace.
    Hierarchy,
    /// That of the tree's cgroup namespace.
    Namespace,
}

/// Plans them, or says all that stands in the way.
pub fn plan(
    namespaces: &[Namespace],
    images: &Images,
    surroundings: &Surroundings,
    options: &MountOptions,
    cgroup_root: CgroupRoot,
) -> Result<Plan, Vec<Problem>> {
    let mut planner =
        Planner { namespaces, images, surroundings, options, cgroup_root, plan: Plan::default() };
    let mut problems = planner.outside();
    problems.extend(planner.inside());
    if !problems.is_empty() {
        return Err(problems);
    }
    problems.extend(planner.groups());
    planner.place();
    if problems.is_empty() { Ok(planner.plan) } else { Err(problems) }
}

struct Planner<'a> {
    namespaces: &'a [Namespace],
    images: &'a Images,
    surroundings: &'a Surroundings,
    options: &'a MountOptions,
    cgroup_root: CgroupRoot,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn mounts(&self) -> impl Iterator<Item = &'a Mount> + use<'a> {
        self.namespaces.iter().flat_map(|namespace| &namespace.mounts)
    }

    /// Sources of mounts that come from outside.
    fn outside(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let first_root = self.namespaces.first().and_then(Namespace::root).map(|root| root.id);
        for mount in self.mounts() {
            let is_given_root = Some(mount.id) == first_root && self.options.root.is_some();
            let kind = match (&mount.external, &self.options.root) {
                (_, Some(root)) if is_given_root => Ok(SourceKind::Outside(root.clone(), Demand::MountPoint)),
                (Some(key), _) => self.of_key(mount, key),
                (None, _) => continue,
            };
            match kind {
                Ok(kind) => self.add_source(kind, mount, mount.root.clone()),
                Err(refusal) => problems.push(Problem::new(refusal).object(mount.object())),
            }
        }
        problems
    }

    fn of_key(&self, mount: &Mount, key: &str) -> Result<SourceKind, MountRefusal> {
        let at = |path: &str| SourceKind::Outside(path.into(), Demand::Any);
        if let Some((_, path)) = self.options.external.iter().find(|(name, _)| name == key) {
            return Ok(at(path));
        }
        if key == ROOT_KEY {
            let path = self.surroundings.path_of(mount.dev, &mount.root);
            return path.map(|path| at(&path)).ok_or(MountRefusal::NoRoot);
        }
        match Place::of_key(key) {
            Some(Place::Path(path)) => Ok(SourceKind::Outside(path, Demand::Type(mount.fstype.clone()))),
            Some(Place::Covered(covered)) => Ok(SourceKind::Covered(covered)),
            // A mount that was found by itself has the path where it was found for a key.
            None if key.starts_with('/') => Ok(at(key)),
            None => Err(MountRefusal::NotGiven { key: key.to_owned() }),
        }
    }

    fn add_source(&mut self, kind: SourceKind, mount: &Mount, root: String) {
        let is_same = |known: &Source| (&known.kind, known.dev, &known.root) == (&kind, mount.dev, &root);
        if let Some(known) = self.plan.sources.iter_mut().find(|known| is_same(known)) {
            known.mounts.push(mount.id);
        } else {
            let (dev, mounts, object) = (mount.dev, vec![mount.id], mount.object());
            self.plan.sources.push(Source { kind, dev, root, mounts, object });
        }
    }

    /// Sources of all other mounts.
    fn inside(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for mount in self.mounts() {
            if self.source_of(mount).is_some() {
                continue;
            }
            let file_system = FileSystem {
                fstype: mount.fstype.clone(),
                source: mount.source.clone(),
                options: mount.options.clone(),
                flags: mount.sb_flags,
            };
            let (fstype, mountpoint) = (mount.fstype.clone(), mount.mountpoint.clone());
            let kind = match fs_types::origin(&mount.fstype, &self.options.enabled) {
                Origin::Inside => Ok(SourceKind::Inside(file_system, None)),
                Origin::Archive => Ok(SourceKind::Inside(file_system, self.archive(mount))),
                // Its folders were, and are, where the namespace comes from.
                Origin::Layers if self.is_a_root(mount) => Ok(SourceKind::Machine(file_system, None)),
                Origin::Layers => Ok(SourceKind::Layers(file_system)),
                Origin::Machine => Ok(SourceKind::Machine(file_system, self.archive(mount))),
                Origin::Outside => Err(MountRefusal::Outside { fstype, mountpoint, may_enable: false }),
                Origin::Never(reason) => Err(MountRefusal::Never { fstype, reason, mountpoint }),
            };
            match kind {
                Ok(kind) => self.add_source(kind, mount, self.root_of_new(mount)),
                Err(refusal) => problems.push(Problem::new(refusal).object(mount.object())),
            }
        }
        problems
    }

    fn is_a_root(&self, mount: &Mount) -> bool {
        let roots = self.namespaces.iter().filter_map(Namespace::root);
        roots.map(|root| root.id).any(|id| id == mount.id)
    }

    /// What a file system that is made new shows as its root, in the words of the old one.
    fn root_of_new(&self, mount: &Mount) -> String {
        if !mount.is_of_cgroups() || self.cgroup_root == CgroupRoot::Hierarchy {
            return "/".into();
        }
        let roots = self.mounts().filter(|other| other.dev == mount.dev).map(|other| &other.root);
        roots.min_by_key(|root| root.len()).unwrap_or(&mount.root).clone()
    }

    /// The archive of a file system; CRIU before 2.0 named them by mounts.
    fn archive(&self, mount: &Mount) -> Option<String> {
        if self.images.has(&TMPFS_DEV, mount.dev.into()) {
            return Some(TMPFS_DEV.file_name(mount.dev.into()));
        }
        let by_mount = |other: &&Mount| {
            other.dev == mount.dev
                && other.root == "/"
                && !other.removed
                && self.images.has(&TMPFS_IMG, other.id.into())
        };
        self.mounts().find(by_mount).map(|other| TMPFS_IMG.file_name(other.id.into()))
    }

    /// The source that a mount is a clone of: that of its own key, or the one that shows most of its file system.
    fn source_of(&self, mount: &Mount) -> Option<(usize, PathBuf)> {
        if mount.external.is_some()
            && let Some(own) = self.plan.sources.iter().position(|source| source.mounts.contains(&mount.id))
        {
            return Some((own, PathBuf::new()));
        }
        let matching = self.plan.sources.iter().enumerate().filter_map(|(i, source)| {
            let below = (source.dev == mount.dev).then(|| mount.root_below(&source.root))??;
            Some((i, source.root.len(), below))
        });
        matching.min_by_key(|(_, length, _)| *length).map(|(i, _, below)| (i, below))
    }

    /// Ways to propagate events, masters before slaves.
    fn groups(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut ways: Vec<Way> = Vec::new();
        for mount in self.mounts() {
            let way = self.way(mount);
            if (way.shared, way.master) != (None, None) && !ways.contains(&way) {
                ways.push(way);
            }
        }
        while !ways.is_empty() {
            let is_ready = |Way { master, .. }: &Way| {
                !ways.iter().any(|other| other.shared.is_some() && other.shared == *master)
            };
            let Some(at) = ways.iter().position(is_ready) else {
                let id = self.namespaces.first().map_or(0, |namespace| namespace.id);
                problems.push(invalid(&MNTS, id.into(), "a peer group is its own master"));
                return problems;
            };
            let way = ways.remove(at);
            let Way { shared, master, tie } = way;
            let members: Vec<&Mount> = self.mounts().filter(|mount| self.way(mount) == way).collect();
            let Some(source) = tie.or_else(|| self.common_source(&members, master)) else {
                let object = members.first().map(|mount| mount.object());
                let problem = Problem::new(MountRefusal::Scattered);
                problems.push(object.into_iter().fold(problem, Problem::object));
                continue;
            };
            let of_master =
                master.and_then(|id| self.plan.groups.iter().position(|group| group.shared == Some(id)));
            let is_external = members.iter().any(|mount| mount.external.is_some());
            let events = match (of_master, master) {
                _ if members.iter().any(|mount| mount.has_peers_outside) => Events::Peers,
                (Some(group), _) => Events::Group(group),
                (None, Some(_)) => Events::Outside,
                (None, None) if is_external && self.options.allows_sharing() => Events::Peers,
                (None, None) => Events::Own,
            };
            self.plan.groups.push(Group { source, shared, master, tie, events });
        }
        problems
    }

    /// How a mount propagates events.
    fn way(&self, mount: &Mount) -> Way {
        let is_inside = |id| self.mounts().any(|other| other.shared == Some(id));
        let is_tied = mount.has_peers_outside
            || (mount.shared.is_none() && mount.master.is_some_and(|id| !is_inside(id)));
        let tie = if is_tied && mount.external.is_some() { self.source_of(mount) } else { None };
        Way { shared: mount.shared, master: mount.master, tie: tie.map(|(source, _)| source) }
    }

    /// The source that has all that these mounts have. A slave of a group outside must be one of the group's source.
    fn common_source(&self, members: &[&Mount], master: Option<u32>) -> Option<usize> {
        let has_all = |source: &Source| {
            members.iter().all(|mount| mount.dev == source.dev && mount.root_below(&source.root).is_some())
        };
        let is_slave_outside = master.is_some_and(|id| self.mounts().all(|mount| mount.shared != Some(id)));
        let known = |source: &Source| {
            let mut external =
                self.mounts().filter(|mount| mount.external.is_some() && mount.master == master);
            external.any(|mount| source.mounts.contains(&mount.id))
        };
        let sources = self.plan.sources.iter().enumerate().filter(|(_, source)| has_all(source));
        let sources = sources.filter(|(_, source)| !is_slave_outside || known(source));
        sources.min_by_key(|(_, source)| source.root.len()).map(|(i, _)| i)
    }

    /// Puts mounts into an order in which they can be made.
    fn place(&mut self) {
        for namespace in self.namespaces {
            let mounts = namespace.mounts.iter().filter_map(|mount| self.planned(namespace, mount)).collect();
            let order = order(namespace);
            self.plan.namespaces.push(PlannedNamespace { id: namespace.id, mounts, order });
        }
    }

    /// All mounts have a source now, and a place below their parent.
    fn planned(&self, namespace: &Namespace, mount: &Mount) -> Option<PlannedMount> {
        let (source, below) = self.source_of(mount)?;
        let way = self.way(mount);
        let id = mount.id.into();
        let is_kept = mount.removed && self.images.has(&TMPFS_IMG, id);
        Some(PlannedMount {
            mount: mount.clone(),
            source,
            below,
            group: self.plan.groups.iter().position(|group| group.way() == way),
            place: namespace.place(mount).unwrap_or_default(),
            removed: is_kept.then(|| TMPFS_IMG.file_name(id)),
        })
    }
}

/// Places of mounts in the table, in the order in which they are put on each other.
fn order(namespace: &Namespace) -> Vec<usize> {
    let mut order = Vec::new();
    let mut next: Vec<&Mount> = namespace.root().into_iter().collect();
    while let Some(mount) = next.pop() {
        order.extend(namespace.mounts.iter().position(|other| other.id == mount.id));
        // Popped from the end: the deepest first, since a mount hides what is below its place.
        let mut children: Vec<&Mount> = namespace.children(mount).collect();
        children.sort_by_key(|child| child.mountpoint.len());
        next.extend(children);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u32, dev: u32, mountpoint: &str, key: &str, master: Option<u32>) -> Mount {
        Mount {
            id,
            parent: 1,
            dev,
            root: "/".into(),
            removed: false,
            mountpoint: mountpoint.into(),
            flags: 0,
            sb_flags: 0,
            fstype: "ext4".into(),
            source: "disk".into(),
            options: String::new(),
            shared: None,
            master,
            external: Some(key.into()),
            has_peers_outside: false,
        }
    }

    fn planned(mounts: Vec<Mount>) -> Plan {
        let dir = tempfile::tempdir().unwrap();
        let external = ["/", "a", "b"].map(|key| (key.to_owned(), format!("/outside/{key}")));
        let options = MountOptions { external: external.into(), ..MountOptions::default() };
        let namespaces = [Namespace { id: 9, mounts }];
        let images = Images::open(dir.path());
        plan(&namespaces, &images, &Surroundings::default(), &options, CgroupRoot::Namespace).unwrap()
    }

    #[test]
    fn slaves_of_two_masters_outside_are_two_groups() {
        let (a, b) = (mount(2, 11, "/a", "a", Some(5)), mount(3, 12, "/b", "b", Some(6)));
        let plan = planned(vec![mount(1, 10, "/", "/", None), a, b]);
        let mounts = &plan.namespaces[0].mounts;
        let group = |at: usize| &plan.groups[mounts[at].group.unwrap()];
        assert_eq!(mounts[0].group, None);
        assert_eq!([1, 2].map(|at| (group(at).source, group(at).master)), [(1, Some(5)), (2, Some(6))]);
    }

    #[test]
    fn each_external_mount_is_made_of_what_was_given_for_it() {
        let (below, above) = (mount(2, 11, "/a", "a", None), mount(3, 11, "/a", "b", None));
        let plan = planned(vec![mount(1, 10, "/", "/", None), below, above]);
        let paths = plan.namespaces[0].mounts.iter().map(|mount| plan.sources[mount.source].kind.clone());
        let outside = |path: &str| SourceKind::Outside(path.into(), Demand::Any);
        assert_eq!(paths.collect::<Vec<_>>(), ["/outside//", "/outside/a", "/outside/b"].map(outside));
    }
}
