//! Groups are made before anything else, by the command at home; tasks are moved into theirs as soon as they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode};
use nix::unistd::{Gid, Uid, UnlinkatFlags};
use proto::catalogue::{CGROUP, INVENTORY};
use proto::messages::{
    CgSetEntry, CgroupDirEntry, CgroupEntry, CgroupPerms, InventoryEntry, StasisCgroupRoot,
};

use super::properties::{self, Form, SETTINGS};
use super::{Group, Hierarchies, Hierarchy, wanted};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{Images, invalid};
use crate::options::{CgroupOptions, ManageCgroups};

/// How deep groups may be below each other, and how many there may be.
const DEEPEST: usize = 64;
const MOST_GROUPS: usize = 10_000;

/// Why groups cannot be restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum CgroupRefusal {
    /// It has to be there, and is not.
    #[error("the cgroup does not exist")]
    Missing,
    /// It must not be there, and is.
    #[error("the cgroup exists already")]
    Exists,
    /// Nobody can be restored in the freezer, and this one is not ours to thaw.
    #[error("a cgroup above it is frozen")]
    FrozenAbove,
}

impl Explain for CgroupRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Missing => "create it, or pass --manage-cgroups=soft to have it created".into(),
            Self::Exists => "remove it, or pass --manage-cgroups=soft to use it as it is".into(),
            Self::FrozenAbove => "thaw that one first".into(),
        })
    }
}

/// One group to be restored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The hierarchy's name.
    hierarchy: String,
    /// The path from its root.
    path: String,
}

impl Place {
    fn object(&self) -> Object {
        let Self { hierarchy, path } = self;
        let name = if hierarchy.is_empty() { path.clone() } else { format!("{hierarchy}:{path}") };
        Object::Named { kind: "cgroup", name }
    }
}

/// Groups of a tree that is being restored. Dropped without success, it removes those that it made.
#[derive(Debug)]
pub struct CgroupsRestore {
    options: CgroupOptions,
    hierarchies: Hierarchies,
    /// Where the members of each combination belong, and the part of each path that is the root of a cgroup namespace.
    sets: BTreeMap<u32, Vec<(Place, Option<String>)>>,
    /// Where the root of the tree was in each hierarchy.
    roots: Vec<(String, String)>,
    /// Directories of the image, each before those below it.
    dirs: Vec<CgroupDir>,
    /// Whether everything is made that is to be made.
    is_made: bool,
    /// Groups that were made, in that order.
    made: Vec<Place>,
    /// Groups that were frozen.
    frozen: Vec<(Place, String, String)>,
    /// Who made them: a process that is forked from it has no part in that.
    owner: u32,
}

impl CgroupsRestore {
    /// Reads what images say, and finds what stands in the way. Nothing is made yet.
    pub fn read(images: &Images, options: &CgroupOptions) -> Result<Self, Vec<Problem>> {
        let mut cgroups = Self {
            options: options.clone(),
            hierarchies: Hierarchies::default(),
            sets: BTreeMap::new(),
            roots: Vec::new(),
            dirs: Vec::new(),
            is_made: false,
            made: Vec::new(),
            frozen: Vec::new(),
            owner: std::process::id(),
        };
        if options.manage == ManageCgroups::Ignore || !images.has(&CGROUP, 0) {
            return Ok(cgroups);
        }
        let one = |problem| vec![problem];
        let entry: CgroupEntry = images.read_single(&CGROUP, 0).map_err(one)?;
        let inventory: InventoryEntry = images.read_single(&INVENTORY, 0).map_err(one)?;
        cgroups.hierarchies = Hierarchies::open(options.yard.as_deref()).map_err(one)?;
        let ours = entry.sets.iter().find(|set| Some(set.id) == inventory.root_cg_set);
        // By custom the tree's root is in the first combination that is not the command's.
        let root = entry.sets.iter().find(|set| Some(set.id) != inventory.root_cg_set);
        for set in entry.sets.iter().filter(|set| Some(set.id) != inventory.root_cg_set) {
            let members =
                set.ctls.iter().filter(|member| path_in(ours, &member.name) != Some(member.path.as_str()));
            let members = members.map(|member| {
                let prefix = member.cgns_prefix.and_then(|length| member.path.get(..length as usize));
                let place = |path: &str| Place {
                    hierarchy: member.name.clone(),
                    path: moved(options, &member.name, path_in(root, &member.name), path),
                };
                (place(&member.path), prefix.map(|prefix| place(prefix).path))
            });
            cgroups.sets.insert(set.id, members.collect());
        }
        let of_root = root.into_iter().flat_map(|set| &set.ctls);
        cgroups.roots = of_root.map(|member| (member.name.clone(), member.path.clone())).collect();
        cgroups.dirs = directories(&entry, options, root).map_err(one)?;
        let problems = cgroups.check().map_err(one)?;
        if problems.is_empty() { Ok(cgroups) } else { Err(problems) }
    }

    fn hierarchy(&self, place: &Place) -> Option<&Hierarchy> {
        self.hierarchies.find(&place.hierarchy)
    }

    fn exists(&self, place: &Place) -> Result<bool, Problem> {
        let Some(hierarchy) = self.hierarchy(place) else { return Ok(false) };
        Ok(hierarchy.group(&place.path).about(|| place.object())?.is_some())
    }

    /// All groups that tasks are in.
    fn places(&self) -> BTreeSet<Place> {
        let places = self.sets.values().flatten();
        places.map(|(place, _)| place.clone()).filter(|place| self.hierarchy(place).is_some()).collect()
    }

    fn check(&self) -> Result<Vec<Problem>, Problem> {
        let mut problems = Vec::new();
        match self.options.manage {
            ManageCgroups::None | ManageCgroups::Props => {
                for place in self.places() {
                    if !self.exists(&place)? {
                        problems.push(Problem::new(CgroupRefusal::Missing).object(place.object()));
                    }
                }
            }
            ManageCgroups::Strict => {
                for dir in &self.dirs {
                    if self.exists(&dir.place)? {
                        problems.push(Problem::new(CgroupRefusal::Exists).object(dir.place.object()));
                    }
                }
            }
            ManageCgroups::Members => {
                let mut gone = Vec::new();
                for place in self.places() {
                    if !self.exists(&place)? {
                        gone.push(place.object().to_string());
                    }
                }
                if !gone.is_empty() {
                    log::warn!(
                        "tasks stay in the cgroups of this command, since theirs are gone ({}); \
                         --manage-cgroups has them created",
                        gone.join(", ")
                    );
                }
            }
            ManageCgroups::Ignore | ManageCgroups::Soft | ManageCgroups::Full => {}
        }
        for place in self.places() {
            if self.is_frozen_above(&place).about(|| place.object())? {
                problems.push(Problem::new(CgroupRefusal::FrozenAbove).object(place.object()));
            }
        }
        Ok(problems)
    }

    /// Whether a group, or the nearest above it that is there, is frozen because one above that is.
    fn is_frozen_above(&self, place: &Place) -> Result<bool, SysError> {
        let Some(hierarchy) = self.hierarchy(place) else { return Ok(false) };
        let mut path = place.path.as_str();
        let (group, is_itself) = loop {
            match hierarchy.group(path)? {
                Some(group) => break (group, path == place.path),
                None => path = path.rsplit_once('/').map_or("", |(above, _)| above),
            }
        };
        let says = |name: &str, line: &str| {
            group.read(name).map(|text| text.unwrap_or_default().lines().any(|is| is == line))
        };
        let by_itself = says("freezer.self_freezing", "1")? || says("cgroup.freeze", "1")?;
        let frozen = says("freezer.parent_freezing", "1")? || says("cgroup.events", "frozen 1")?;
        // Of a group that is to be made, this one is above.
        Ok(says("freezer.parent_freezing", "1")? || (frozen && !by_itself) || (by_itself && !is_itself))
    }

    /// Makes the groups that are to be made, and gives them their settings; once.
    pub fn make(&mut self) -> Result<(), Problem> {
        if std::mem::replace(&mut self.is_made, true) {
            return Ok(());
        }
        self.thaw()?;
        let dirs = std::mem::take(&mut self.dirs);
        let (creates, always) = match self.options.manage {
            ManageCgroups::Ignore | ManageCgroups::Members | ManageCgroups::None => return Ok(()),
            ManageCgroups::Props => (false, true),
            ManageCgroups::Soft => (true, false),
            ManageCgroups::Full | ManageCgroups::Strict => (true, true),
        };
        let step = "make its cgroups";
        let mut made = BTreeSet::new();
        if creates {
            let all = dirs.iter().map(|dir| dir.place.clone()).chain(self.places());
            for place in all.collect::<Vec<_>>() {
                self.create(&place, &mut made).about(|| place.object()).while_trying_to(step)?;
            }
        }
        for dir in &dirs {
            let Some(hierarchy) = self.hierarchies.find(&dir.place.hierarchy) else { continue };
            if !always && !made.contains(&dir.place) {
                continue;
            }
            let Some(group) = hierarchy.group(&dir.place.path)? else { continue };
            let frozen = settle(&group, &dir.entry).about(|| dir.place.object()).while_trying_to(step)?;
            self.frozen.extend(frozen.into_iter().map(|(name, value)| (dir.place.clone(), name, value)));
        }
        Ok(())
    }

    /// Thaws groups that tasks go into: nobody can be restored in the freezer. They are frozen again at the end.
    fn thaw(&mut self) -> Result<(), Problem> {
        let mut frozen = Vec::new();
        for place in self.places() {
            let group = self.hierarchy(&place).map(|hierarchy| hierarchy.group(&place.path)).transpose();
            let Some(group) = group.about(|| place.object())?.flatten() else { continue };
            for (name, is, not) in [("freezer.state", "FROZEN", "THAWED"), ("cgroup.freeze", "1", "0")] {
                if group.read(name)?.is_some_and(|state| state.trim() == is) {
                    group.write(name, not).about(|| place.object()).while_trying_to("thaw it")?;
                    frozen.push((place.clone(), name.to_owned(), is.to_owned()));
                }
            }
        }
        self.frozen = frozen;
        Ok(())
    }

    /// Freezes again what was frozen.
    fn freeze(&mut self) {
        for (place, name, value) in std::mem::take(&mut self.frozen) {
            let frozen = self.hierarchy(&place).map(|hierarchy| hierarchy.group(&place.path));
            let frozen = frozen.and_then(Result::ok).flatten().map(|group| group.write(&name, &value));
            if let Some(Err(e)) = frozen {
                log::warn!("{} could not be frozen again: {e}", place.object());
            }
        }
    }

    /// Makes a group and those above it, as far as they are missing.
    fn create(&mut self, place: &Place, made: &mut BTreeSet<Place>) -> Result<(), SysError> {
        let Some(hierarchy) = self.hierarchies.find(&place.hierarchy) else { return Ok(()) };
        let mut above = String::new();
        for name in place.path.split('/').filter(|name| !name.is_empty()) {
            let path = format!("{above}/{name}");
            if hierarchy.group(&path)?.is_none() {
                let Some(parent) = hierarchy.group(&above)? else { return Ok(()) };
                let here = Place { hierarchy: place.hierarchy.clone(), path: path.clone() };
                match nix::sys::stat::mkdirat(parent.0.as_fd(), name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) => {
                        self.made.push(here.clone());
                        made.insert(here);
                    }
                    Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(SysError { call: "mkdirat(cgroup)", errno }),
                }
                if let Some(group) = hierarchy.group(&path)? {
                    inherit_cpuset(&parent, &group)?;
                }
            }
            above = path;
        }
        Ok(())
    }

    /// Moves a process into the roots of the cgroup namespace that it is going to make.
    pub fn enter_roots(&self, set: u32, pid: i32) -> Result<(), Problem> {
        let members = self.sets.get(&set).into_iter().flatten();
        let roots = members.filter_map(|(place, root)| Some((place, root.as_ref()?)));
        for (place, root) in roots {
            let place = Place { path: root.clone(), ..place.clone() };
            self.enter(&place, pid, false)?;
        }
        Ok(())
    }

    /// Moves a process into these groups.
    pub fn enter_places(&self, roots: &[StasisCgroupRoot], pid: i32) -> Result<(), Problem> {
        for StasisCgroupRoot { hierarchy, path } in roots {
            let path = moved(&self.options, hierarchy, self.roots_path(hierarchy), path);
            self.enter(&Place { hierarchy: hierarchy.clone(), path }, pid, false)?;
        }
        Ok(())
    }

    /// Where the tree's root was in a hierarchy.
    fn roots_path(&self, hierarchy: &str) -> Option<&str> {
        self.roots.iter().find(|(known, _)| known == hierarchy).map(|(_, path)| path.as_str())
    }

    /// Moves a process, or one thread of it, to where the members of a set belong.
    pub fn enter_set(&self, set: u32, id: i32, thread: bool) -> Result<(), Problem> {
        let members = self.sets.get(&set).into_iter().flatten();
        members.map(|(place, _)| place).try_for_each(|place| self.enter(place, id, thread))
    }

    fn enter(&self, place: &Place, id: i32, thread: bool) -> Result<(), Problem> {
        let Some(hierarchy) = self.hierarchy(place) else {
            log::debug!("{}: its hierarchy is not mounted here", place.object());
            return Ok(());
        };
        match hierarchy.enter(&place.path, id, thread) {
            // It was told of before anything was made.
            Err(SysError { errno: Errno::ENOENT, .. }) if self.options.manage == ManageCgroups::Members => {
                Ok(())
            }
            // Threads of a process in a group of version 2 that is not threaded are where it is.
            Err(SysError { errno: Errno::EOPNOTSUPP, .. }) if thread && hierarchy.is_v2() => Ok(()),
            entered => entered.about(|| place.object()).while_trying_to("move it into its cgroup"),
        }
    }

    /// Leaves everything as it is: the tree runs.
    pub fn succeeded(&mut self) {
        self.made.clear();
        self.freeze();
    }
}

impl Drop for CgroupsRestore {
    fn drop(&mut self) {
        /// Tasks that were killed may take a moment to leave.
        const LIMIT: Duration = Duration::from_secs(2);
        if self.owner != std::process::id() {
            return;
        }
        self.freeze();
        let deadline = Instant::now() + LIMIT;
        for place in std::mem::take(&mut self.made).into_iter().rev() {
            let Some(hierarchy) = self.hierarchies.find(&place.hierarchy) else { continue };
            let path = place.path.trim_start_matches('/');
            loop {
                match nix::unistd::unlinkat(hierarchy.dir.as_fd(), path, UnlinkatFlags::RemoveDir) {
                    Err(Errno::EBUSY) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Ok(()) | Err(Errno::ENOENT) => break,
                    Err(errno) => {
                        log::warn!("{} could not be removed: {}", place.object(), errno.desc());
                        break;
                    }
                }
            }
        }
    }
}

/// A directory of an image, where it belongs now.
#[derive(Debug, Clone)]
struct CgroupDir {
    place: Place,
    /// Without its children, which come behind it.
    entry: CgroupDirEntry,
}

/// All directories of an image, each before those below it.
fn directories(
    entry: &CgroupEntry,
    options: &CgroupOptions,
    root: Option<&CgSetEntry>,
) -> Result<Vec<CgroupDir>, Problem> {
    let mut all = Vec::new();
    for controller in &entry.controllers {
        let hierarchy = controller.cnames.join(",");
        let top = path_in(root, &hierarchy);
        let mut left: Vec<(String, usize, &CgroupDirEntry)> =
            controller.dirs.iter().rev().map(|dir| (String::new(), 0, dir)).collect();
        while let Some((above, depth, dir)) = left.pop() {
            let is_name = !dir.dir_name.split('/').any(|part| part == "..");
            if depth > DEEPEST || all.len() > MOST_GROUPS || !is_name {
                return Err(invalid(&CGROUP, 0, "its directories are impossible"));
            }
            let path = format!("{above}/{}", dir.dir_name.trim_matches('/'));
            left.extend(dir.children.iter().rev().map(|child| (path.clone(), depth + 1, child)));
            let place = Place { path: moved(options, &hierarchy, top, &path), hierarchy: hierarchy.clone() };
            let entry = CgroupDirEntry { children: Vec::new(), ..dir.clone() };
            all.push(CgroupDir { place, entry });
        }
    }
    Ok(all)
}

fn path_in<'a>(set: Option<&'a CgSetEntry>, hierarchy: &str) -> Option<&'a str> {
    set?.ctls.iter().find(|member| member.name == hierarchy).map(|member| member.path.as_str())
}

/// Where a path goes if the tree's own root group is to be another (`--cgroup-root`).
fn moved(options: &CgroupOptions, hierarchy: &str, root: Option<&str>, path: &str) -> String {
    let is_meant = |names: &Option<String>| {
        names
            .as_ref()
            .is_some_and(|wanted| wanted == hierarchy || hierarchy.split(',').any(|name| name == wanted))
    };
    let roots = &options.roots;
    let new = roots.iter().rfind(|(names, _)| is_meant(names));
    let new = new.or_else(|| roots.iter().rfind(|(names, _)| names.is_none()));
    let Some((_, new)) = new else { return path.to_owned() };
    let root = root.unwrap_or("/").trim_end_matches('/');
    let rest =
        path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
    let new: PathBuf = new.join(rest.trim_start_matches('/'));
    format!("/{}", new.to_string_lossy().trim_matches('/'))
}

/// Where roots of mounts go that are groups of the tree (`--cgroup-root`).
#[derive(Debug)]
pub struct MovedRoots<'a> {
    options: &'a CgroupOptions,
    /// The combination of groups that the tree's root was in.
    root: Option<CgSetEntry>,
}

impl<'a> MovedRoots<'a> {
    /// Reads where the tree's root was.
    pub fn read(images: &Images, options: &'a CgroupOptions) -> Result<Self, Problem> {
        if options.roots.is_empty() || !images.has(&CGROUP, 0) {
            return Ok(Self { options, root: None });
        }
        let entry: CgroupEntry = images.read_single(&CGROUP, 0)?;
        let inventory: InventoryEntry = images.read_single(&INVENTORY, 0)?;
        let root = entry.sets.into_iter().find(|set| Some(set.id) != inventory.root_cg_set);
        Ok(Self { options, root })
    }

    /// The root that a mount of this type, with these options of its file system, has now.
    pub fn of(&self, fstype: &str, options: &str, path: &str) -> String {
        match (super::hierarchy_of(fstype, options), &self.root) {
            (Some(hierarchy), Some(root)) if path != "/" => {
                moved(self.options, &hierarchy, path_in(Some(root), &hierarchy), path)
            }
            _ => path.to_owned(),
        }
    }
}

/// A new group of the controller cpuset takes nobody in until it has processors and memory nodes.
fn inherit_cpuset(parent: &Group, group: &Group) -> Result<(), SysError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let is_v1_and_empty =
            group.read("tasks")?.is_some() && group.read(name)?.is_some_and(|is| is.trim().is_empty());
        if is_v1_and_empty && let Some(value) = parent.read(name)? {
            group.write(name, value.trim_end())?;
        }
    }
    Ok(())
}

/// Gives a group its settings and owners; whether it is frozen is returned, for later.
fn settle(group: &Group, entry: &CgroupDirEntry) -> Result<Option<(String, String)>, SysError> {
    let mut frozen = None;
    let known = SETTINGS.iter().map(|(name, _)| *name);
    let is_extra = |name: &&str| wanted::is_setting(name) && !SETTINGS.iter().any(|(known, _)| known == name);
    let extra = entry.properties.iter().map(|property| property.name.as_str()).filter(is_extra);
    for name in known.chain(extra) {
        let Some(property) = entry.properties.iter().find(|property| property.name == name) else {
            continue;
        };
        let form = properties::form(name);
        if form == Form::Frozen {
            let is_frozen = matches!(property.value.trim(), "FROZEN" | "1");
            frozen = frozen.or(is_frozen.then(|| (property.name.clone(), property.value.clone())));
        } else {
            properties::set(group, name, form, &property.value)?;
        }
        if let Some(perms) = property.perms {
            own(group, name, perms)?;
        }
    }
    if let Some(perms) = entry.dir_perms {
        own(group, ".", perms)?;
    }
    Ok(frozen)
}

fn own(group: &Group, name: &str, perms: CgroupPerms) -> Result<(), SysError> {
    let dir = group.0.as_fd();
    let is = match nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(()),
        is => is.map_err(SysError::of("fstatat(cgroup)"))?,
    };
    if (is.st_uid, is.st_gid) != (perms.uid, perms.gid) {
        let (uid, gid) = (Uid::from_raw(perms.uid), Gid::from_raw(perms.gid));
        let done = nix::unistd::fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW);
        done.map_err(SysError::of("fchownat(cgroup)"))?;
    }
    if is.st_mode & 0o7777 != perms.mode {
        let mode = Mode::from_bits_truncate(perms.mode);
        nix::sys::stat::fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink)
            .map_err(SysError::of("fchmodat(cgroup)"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::below("cpu", "/old/c/d", "/new/d")]
    #[case::itself("cpu", "/old/c", "/new")]
    #[case::beside("cpu", "/other", "/new/other")]
    #[case::of_its_own("memory", "/old/c/d", "/m/d")]
    #[case::one_of_several("cpu,memory", "/old/c", "/m")]
    fn another_root(#[case] hierarchy: &str, #[case] path: &str, #[case] is: &str) {
        let roots = vec![(None, "/new".into()), (Some("memory".to_owned()), "/m".into())];
        let options = CgroupOptions { roots, ..CgroupOptions::default() };
        assert_eq!(moved(&options, hierarchy, Some("/old/c"), path), is);
        assert_eq!(moved(&CgroupOptions::default(), hierarchy, Some("/old/c"), path), path);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let dir = CgroupDirEntry { dir_name: "a/../../b".into(), ..CgroupDirEntry::default() };
        let controllers = vec![proto::messages::CgControllerEntry {
            cnames: vec!["cpu".into()],
            dirs: vec![dir],
            is_threaded: None,
        }];
        let entry = CgroupEntry { sets: Vec::new(), controllers };
        directories(&entry, &CgroupOptions::default(), None).unwrap_err();
    }
}
