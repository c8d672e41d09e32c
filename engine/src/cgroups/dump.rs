//! What is written of control groups: the combinations that tasks are in, and the directories with their settings.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::sched::CloneFlags;
use proto::catalogue::CGROUP;
use proto::messages::{
    CgControllerEntry, CgMemberEntry, CgSetEntry, CgroupDirEntry, CgroupEntry, CgroupPerms, CgroupPropEntry,
    StasisCgroupRoot,
};

use super::properties::{self, Form};
use super::{Group, Hierarchies, Hierarchy, wanted};
use crate::dump::inspect::{TaskFacts, ThreadFacts, read_proc};
use crate::dump::places::Memo;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::NewImages;
use crate::options::{CgroupOptions, DumpOptions, ManageCgroups};
use crate::procfs::cgroup::{self, Membership};
use crate::procfs::link::NamespaceType;
use crate::side_by_side;
use crate::visit;

/// Groups below one that are looked at: more is somebody's mistake.
const MOST_GROUPS: usize = 10_000;

/// The combinations of groups that were met; the first is the command's own.
#[derive(Debug)]
pub struct CgroupsDump<'a> {
    options: &'a CgroupOptions,
    hierarchies: &'a Hierarchies,
    sets: Vec<Vec<Membership>>,
}

impl<'a> CgroupsDump<'a> {
    /// Nothing was met yet.
    pub fn new(options: &'a CgroupOptions, hierarchies: &'a Hierarchies) -> Result<Self, Problem> {
        let sets = match options.manage {
            ManageCgroups::Ignore => Vec::new(),
            _ => vec![read("self", options)?],
        };
        Ok(Self { options, hierarchies, sets })
    }

    /// The id of the command's own combination; none if groups are ignored.
    pub fn own_set(&self) -> Option<u32> {
        (!self.sets.is_empty()).then_some(1)
    }

    /// In which groups processes are, in their order; empty if groups are ignored.
    pub fn memberships(&self, tasks: &[&TaskFacts]) -> Vec<Result<Vec<Membership>, Problem>> {
        if self.sets.is_empty() {
            return Vec::new();
        }
        let known = Memo::default();
        side_by_side::map(tasks, |task| {
            let place = task.places.as_ref().map(|places| places.cgroups());
            known.or_read(place, || read(&task.pid.to_string(), self.options))
        })
    }

    /// The ids of the combinations of a process's threads, the first of which stands for the process, which is in these groups;
    /// none if groups are ignored.
    pub fn sets_of(
        &mut self,
        process: &TaskFacts,
        groups: Option<Result<Vec<Membership>, Problem>>,
    ) -> Vec<Result<Option<u32>, Problem>> {
        /// Fewer threads are looked up one by one.
        const MANY: usize = 16;
        let (pid, threads) = (process.pid, &process.threads);
        let Some(groups) = groups else { return threads.iter().map(|_| Ok(None)).collect() };
        let own = groups.map(|set| self.id_of(set));
        let id = own.as_ref().ok().copied();
        let place = |thread: &ThreadFacts| thread.seen.as_ref().map(|seen| seen.places.cgroups);
        let leaders = threads.first().and_then(place);
        let is_elsewhere = |thread: &&ThreadFacts| leaders.is_none() || place(thread) != leaders;
        let mut others: Vec<i32> = threads.iter().filter(is_elsewhere).map(|thread| thread.tid).collect();
        let together = id.filter(|_| others.len() >= MANY).and_then(|id| self.threads_in(id));
        let together = together.unwrap_or_default();
        others.retain(|tid| *tid != pid && !together.contains(tid));
        let read_one = |tid: &i32| read(&format!("{pid}/task/{tid}"), self.options);
        let read = side_by_side::map(&others, read_one);
        let mut others: HashMap<i32, _> = others.into_iter().zip(read).collect();
        let mut own = Some(own);
        let mut of_thread = |tid: &i32| match (own.take_if(|_| *tid == pid), others.remove(tid), id) {
            (Some(own), ..) => own,
            (None, Some(set), _) => set.map(|set| self.id_of(set)),
            // It is with its process.
            (None, None, id) => Ok(id.unwrap_or(1)),
        };
        threads.iter().map(|thread| of_thread(&thread.tid)).map(|id| id.map(Some)).collect()
    }

    /// The id of a combination.
    fn id_of(&mut self, set: Vec<Membership>) -> u32 {
        let at = self.sets.iter().position(|known| *known == set).unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        });
        at as u32 + 1
    }

    /// All threads that are in the groups of a combination, by what the groups say; none where one cannot be asked.
    fn threads_in(&self, id: u32) -> Option<HashSet<i32>> {
        let set = self.sets.get(id as usize - 1)?;
        let mut common: Option<HashSet<i32>> = None;
        for member in set {
            let hierarchy = self.hierarchies.find(&member.hierarchy)?;
            let group = hierarchy.group(&member.path).ok()??;
            let text = group.read(hierarchy.members_file(true)).ok()??;
            let tids: HashSet<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            common = Some(match common {
                Some(common) => common.intersection(&tids).copied().collect(),
                None => tids,
            });
        }
        common
    }

    /// Where the groups are that a process's cgroup namespace has as its roots.
    pub fn roots_of(&self, pid: i32) -> Result<Vec<StasisCgroupRoot>, Problem> {
        if self.sets.is_empty() {
            return Ok(Vec::new());
        }
        let (inner, outer) = (read_within(pid)?, read(&pid.to_string(), self.options)?);
        let root = |outer: Membership| {
            let inner = inner.iter().find(|inner| inner.hierarchy == outer.hierarchy)?;
            let length = prefix_length(&outer.path, &inner.path)? as usize;
            Some(StasisCgroupRoot { path: outer.path.get(..length)?.to_owned(), hierarchy: outer.hierarchy })
        };
        Ok(outer.into_iter().filter_map(root).collect())
    }

    /// Writes the image.
    pub fn write(&self, options: &DumpOptions, images: &mut NewImages) -> Result<(), Problem> {
        if self.sets.is_empty() {
            return Ok(());
        }
        let (root, has_namespace) = (options.tree, options.inside.has(NamespaceType::Cgroup));
        let inner = if has_namespace { read_within(root)? } else { Vec::new() };
        let outer = if has_namespace { read(&root.to_string(), self.options)? } else { Vec::new() };
        let prefix = |member: &Membership| {
            let of = |list: &[Membership]| {
                list.iter().find(|other| other.hierarchy == member.hierarchy).map(|other| other.path.clone())
            };
            prefix_length(&of(&outer)?, &of(&inner)?)
        };
        let member = |member: &Membership| CgMemberEntry {
            name: member.hierarchy.clone(),
            path: member.path.clone(),
            cgns_prefix: prefix(member),
        };
        let sets = self
            .sets
            .iter()
            .zip(1..)
            .map(|(set, id)| CgSetEntry { id, ctls: set.iter().map(member).collect() });
        let sets = sets.collect();
        let controllers =
            if self.options.manage.describes_groups() { self.controllers()? } else { Vec::new() };
        images.write(&CGROUP, 0, &[CgroupEntry { sets, controllers }])
    }

    /// Directories of all groups that are the tree's own, and those below them.
    fn controllers(&self) -> Result<Vec<CgControllerEntry>, Problem> {
        let Some((own, others)) = self.sets.split_first() else { return Ok(Vec::new()) };
        let mut controllers = Vec::new();
        let names = wanted::names(&self.options.props);
        for hierarchy in self.hierarchies.0.iter().filter(|hierarchy| self.options.counts(&hierarchy.name)) {
            let path_in = |set: &Vec<Membership>| {
                set.iter().find(|member| member.hierarchy == hierarchy.name).map(|member| member.path.clone())
            };
            let ours = path_in(own);
            let paths: BTreeSet<String> =
                others.iter().filter_map(path_in).filter(|p| Some(p) != ours.as_ref()).collect();
            let is_below = |path: &String, other: &String| {
                path.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/'))
            };
            let tops = paths.iter().filter(|path| !paths.iter().any(|other| is_below(path, other)));
            let mut left = MOST_GROUPS;
            let dirs: Vec<CgroupDirEntry> = tops
                .filter_map(|path| {
                    let group = hierarchy.group(path).transpose()?;
                    let name = path.trim_start_matches('/').to_owned();
                    Some(group.and_then(|group| describe(hierarchy, &group, path, name, &names, &mut left)))
                })
                .collect::<Result<_, _>>()
                .about(|| Object::Named { kind: "hierarchy of cgroups", name: hierarchy.name.clone() })?;
            if !dirs.is_empty() {
                let cnames = hierarchy.name.split(',').map(str::to_owned).collect();
                controllers.push(CgControllerEntry { cnames, dirs, is_threaded: None });
            }
        }
        Ok(controllers)
    }
}

fn read(process: &str, options: &CgroupOptions) -> Result<Vec<Membership>, Problem> {
    let mut set = read_proc(format!("/proc/{process}/cgroup"), cgroup::parse)?;
    set.retain(|member| options.counts(&member.hierarchy));
    set.sort();
    Ok(set)
}

/// Where a process is, as seen from its own cgroup namespace.
fn read_within(pid: i32) -> Result<Vec<Membership>, Problem> {
    let namespace = visit::of(pid, NamespaceType::Cgroup)?;
    // Each thread is in namespaces of its own.
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            nix::sched::setns(namespace.as_fd(), CloneFlags::CLONE_NEWCGROUP)
                .map_err(SysError::of("setns"))?;
            std::fs::read(format!("/proc/{pid}/cgroup")).map_err(SysError::io("read"))
        });
        let text =
            reader.join().expect("it does not panic").while_trying_to("look at its cgroup namespace")?;
        Ok(cgroup::parse(&text)?)
    })
}

/// How much of a path is the root of a namespace in which it reads like `inner`.
fn prefix_length(outer: &str, inner: &str) -> Option<u32> {
    let rest = if inner == "/" { "" } else { inner };
    outer.strip_suffix(rest).map(|prefix| prefix.len() as u32)
}

fn describe(
    hierarchy: &Hierarchy,
    group: &Group,
    path: &str,
    dir_name: String,
    names: &[&str],
    left: &mut usize,
) -> Result<CgroupDirEntry, SysError> {
    let mut properties = Vec::new();
    for name in names {
        let Some(value) = group.read(name)? else { continue };
        if properties::form(name) == Form::Frozen && value.trim() == "FREEZING" {
            continue;
        }
        let perms = nix::sys::stat::fstatat(group.0.as_fd(), *name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
        let perms = perms.ok().map(|stat| permissions(&stat));
        properties.push(CgroupPropEntry {
            name: (*name).to_owned(),
            value: value.trim_end().to_owned(),
            perms,
        });
    }
    let stat = nix::sys::stat::fstat(&group.0).map_err(SysError::of("fstat(cgroup)"))?;
    let mut children = Vec::new();
    for name in below(group)? {
        let Some(remaining) = left.checked_sub(1) else { break };
        *left = remaining;
        let path = format!("{}/{name}", path.trim_end_matches('/'));
        // It may be gone by now.
        if let Some(child) = hierarchy.group(&path)? {
            children.push(describe(hierarchy, &child, &path, name, names, left)?);
        }
    }
    Ok(CgroupDirEntry { dir_name, children, properties, dir_perms: Some(permissions(&stat)) })
}

fn permissions(stat: &libc::stat) -> CgroupPerms {
    CgroupPerms { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
}

/// Names of the groups below one, in order.
fn below(group: &Group) -> Result<Vec<String>, SysError> {
    let link = format!("/proc/self/fd/{}", group.0.as_raw_fd());
    let entries = std::fs::read_dir(link).map_err(SysError::io("opendir(cgroup)"))?;
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let names = entries.filter_map(|entry| entry.ok().filter(is_dir)?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/a/b", "/", Some(4))]
    #[case("/a/b", "/b", Some(2))]
    #[case("/", "/", Some(1))]
    #[case("/a", "/../c", None)]
    fn the_root_of_a_namespace(#[case] outer: &str, #[case] inner: &str, #[case] length: Option<u32>) {
        assert_eq!(prefix_length(outer, inner), length);
    }
}
