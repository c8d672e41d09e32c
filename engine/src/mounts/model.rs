//! A mount namespace as data: what `/proc/PID/mountinfo` says of it, and what `mountpoints-ID.img` keeps.

use std::path::{Path, PathBuf};

use proto::messages::MntEntry;

use super::flags;
use super::fs_types;
use crate::error::{Object, Problem};
use crate::image::invalid;
use crate::procfs::mountinfo;

/// What the kernel puts behind the root of a mount whose file or folder was removed (`seq_dentry`, fs/d_path.c).
const REMOVED: &[u8] = b"//deleted";

/// The option that images have for a mount that shares events with what it comes from, outside.
const PEERS_OUTSIDE: &str = "peers-outside";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id, which no other mount of the machine had at the time.
    pub id: u32,
    /// What it is mounted on; not in the namespace for the root.
    pub parent: u32,
    /// The device number of its file system, as the kernel has it (`MKDEV`).
    pub dev: u32,
    /// The file or folder of the file system that is its root.
    pub root: String,
    /// Whether that was removed.
    pub removed: bool,
    /// Where it is mounted, from the root of the namespace.
    pub mountpoint: String,
    /// `MS_*` of the mount.
    pub flags: u32,
    /// `MS_*` of the file system.
    pub sb_flags: u32,
    /// The type of the file system, as mount(8) takes it.
    pub fstype: String,
    /// What it was mounted from.
    pub source: String,
    /// Options of the file system, without those that are in `sb_flags`.
    pub options: String,
    /// The peer group that it shares events with.
    pub shared: Option<u32>,
    /// The peer group that it receives events from.
    pub master: Option<u32>,
    /// The key of what it is at restore, if its file system comes from outside.
    pub external: Option<String>,
    /// Whether it shares events with what it comes from, outside.
    pub has_peers_outside: bool,
}

/// The mounts of one namespace, in the order in which the kernel tells them: by age.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// The number of its image file.
    pub id: u32,
    /// All of them.
    pub mounts: Vec<Mount>,
}

/// Why a mount does not fit into an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

impl Mount {
    /// Whether it shows control groups.
    pub fn is_of_cgroups(&self) -> bool {
        matches!(self.fstype.as_str(), "cgroup" | "cgroup2")
    }

    /// From a line of mountinfo.
    pub fn from_line(line: &mountinfo::Mount) -> Result<Self, NotUtf8> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_not_utf8| NotUtf8);
        let root = line.root.strip_suffix(REMOVED);
        let propagation = &line.propagation;
        let (sb_flags, options) = flags::split_super(&text(&line.super_options)?);
        let group = |id: Option<i32>| id.map(|id| id as u32);
        let mut flags = flags::of_mount(&text(&line.options)?);
        flags |= flags::of_propagation(propagation);
        Ok(Self {
            id: line.id as u32,
            parent: line.parent as u32,
            dev: device(line.dev),
            root: text(root.unwrap_or(&line.root))?,
            removed: root.is_some(),
            mountpoint: text(&line.mountpoint)?,
            flags,
            sb_flags,
            fstype: text(&line.fstype)?,
            source: text(&line.source)?,
            options,
            shared: group(propagation.shared),
            master: group(propagation.master),
            external: None,
            has_peers_outside: false,
        })
    }

    /// As the image has it.
    pub fn to_entry(&self) -> MntEntry {
        let mut options = self.options.clone();
        if self.has_peers_outside {
            add_option(&mut options, PEERS_OUTSIDE);
        }
        let number = fs_types::number(&self.fstype);
        let is_named = number == fs_types::UNSUPPORTED || number == fs_types::AUTO;
        MntEntry {
            fstype: number,
            mnt_id: self.id,
            root_dev: self.dev,
            parent_mnt_id: self.parent,
            flags: self.flags,
            root: self.root.clone(),
            mountpoint: self.mountpoint.clone(),
            source: self.source.clone(),
            options,
            shared_id: self.shared,
            master_id: self.master,
            with_plugin: None,
            ext_mount: self.external.is_some().then_some(true),
            fsname: is_named.then(|| self.fstype.clone()),
            internal_sharing: None,
            deleted: self.removed.then_some(true),
            sb_flags: Some(self.sb_flags),
            ext_key: self.external.clone(),
        }
    }

    /// From an image.
    fn from_entry(entry: &MntEntry) -> Result<Self, &'static str> {
        let fstype = match (&entry.fsname, fs_types::name(entry.fstype)) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.to_owned(),
            (None, None) if entry.ext_mount() => String::new(),
            (None, None) => return Err("a mount has no type"),
        };
        for path in [&entry.root, &entry.mountpoint] {
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains('\0') {
                return Err("a path of a mount is none");
            }
        }
        let zero_is_none = |id: Option<u32>| id.filter(|id| *id != 0);
        let external = entry.ext_key.clone().filter(|key| !key.is_empty());
        let (marks, options): (Vec<&str>, Vec<&str>) =
            entry.options.split(',').partition(|option| *option == PEERS_OUTSIDE);
        Ok(Self {
            id: entry.mnt_id,
            parent: entry.parent_mnt_id,
            dev: entry.root_dev,
            root: entry.root.clone(),
            removed: entry.deleted(),
            mountpoint: entry.mountpoint.clone(),
            flags: entry.flags,
            sb_flags: entry.sb_flags(),
            fstype,
            source: entry.source.clone(),
            options: options.join(","),
            shared: zero_is_none(entry.shared_id),
            master: zero_is_none(entry.master_id),
            external: external.or_else(|| entry.ext_mount().then(|| entry.root.clone())),
            has_peers_outside: !marks.is_empty(),
        })
    }

    /// How messages name it.
    pub fn object(&self) -> Object {
        let mut name = format!("{} ({}", self.mountpoint, self.fstype);
        if !self.source.is_empty() && self.source != self.fstype {
            name = format!("{name} {}", self.source);
        }
        Object::Named { kind: "mount", name: name + ")" }
    }

    /// Where its root is below another folder of its file system, if it is there.
    pub fn root_below(&self, folder: &str) -> Option<PathBuf> {
        Path::new(&self.root).strip_prefix(folder).ok().map(Path::to_owned)
    }
}

impl Namespace {
    /// From an image.
    pub fn from_entries(id: u32, entries: &[MntEntry]) -> Result<Self, Problem> {
        let bad = |what| invalid(&proto::catalogue::MNTS, id.into(), what);
        let mounts = entries.iter().map(Mount::from_entry).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let namespace = Self { id, mounts };
        namespace.root().ok_or_else(|| bad("no mount is the root of the namespace"))?;
        namespace.check_tree().map_err(bad)?;
        Ok(namespace)
    }

    /// The mount that all others are on.
    pub fn root(&self) -> Option<&Mount> {
        self.mounts.iter().find(|mount| self.parent(mount).is_none())
    }

    /// What a mount is mounted on, unless it is the root.
    pub fn parent(&self, mount: &Mount) -> Option<&Mount> {
        self.mounts.iter().find(|other| other.id == mount.parent && other.id != mount.id)
    }

    /// What is mounted on a mount.
    pub fn children(&self, mount: &Mount) -> impl Iterator<Item = &Mount> {
        let id = mount.id;
        self.mounts.iter().filter(move |other| other.parent == id && other.id != id)
    }

    /// Where a mount is mounted, from the root of its parent.
    pub fn place(&self, mount: &Mount) -> Option<PathBuf> {
        let parent = self.parent(mount)?;
        Path::new(&mount.mountpoint).strip_prefix(&parent.mountpoint).ok().map(Path::to_owned)
    }

    /// That there is one root, no id is there twice, no mount is its own ancestor, and each is below its parent.
    fn check_tree(&self) -> Result<(), &'static str> {
        let mut ids: Vec<u32> = self.mounts.iter().map(|mount| mount.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair.first() == pair.get(1)) {
            return Err("two mounts have one id");
        }
        let Some(root) = self.root() else { return Err("no mount is the root of the namespace") };
        let mut found = vec![root];
        let mut next = 0;
        while let Some(mount) = found.get(next).copied() {
            found.extend(self.children(mount));
            next += 1;
        }
        if found.len() != self.mounts.len() {
            return Err("not all mounts are below one root");
        }
        if self.mounts.iter().any(|mount| mount.id != root.id && self.place(mount).is_none()) {
            return Err("a mount is not below the one that it is mounted on");
        }
        Ok(())
    }
}

/// Adds an option to others.
pub(super) fn add_option(options: &mut String, option: &str) {
    if !options.is_empty() {
        options.push(',');
    }
    options.push_str(option);
}

/// A device number as the kernel has it inside (`MKDEV` of `include/linux/kdev_t.h`).
pub fn device((major, minor): (u32, u32)) -> u32 {
    (major << 20) | (minor & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Mount> {
        mountinfo::parse(text.as_bytes()).unwrap().iter().map(|m| Mount::from_line(m).unwrap()).collect()
    }

    const TEXT: &str = "\
30 1 0:31 / / rw,relatime - tmpfs root rw,size=1024k
31 30 0:32 / /proc rw,nosuid,nodev,noexec - proc proc rw
32 30 0:31 /a//deleted /b ro,relatime shared:5 master:3 - tmpfs root rw,size=1024k
33 32 0:33 / /b rw unbindable - tmpfs x ro,sync,mode=700
";

    #[test]
    fn a_namespace_goes_through_an_image() {
        let namespace = Namespace { id: 7, mounts: read(TEXT) };
        let entries: Vec<MntEntry> = namespace.mounts.iter().map(Mount::to_entry).collect();
        assert_eq!(Namespace::from_entries(7, &entries).unwrap(), namespace);
        let [root, _, removed, top] = namespace.mounts.as_slice() else { panic!() };
        assert_eq!(namespace.root(), Some(root));
        assert_eq!((removed.root.as_str(), removed.removed), ("/a", true));
        assert_eq!((removed.shared, removed.master), (Some(5), Some(3)));
        assert_eq!(namespace.place(top), Some(PathBuf::new()));
        assert_eq!((top.options.as_str(), top.sb_flags), ("mode=700", 1 | 16));
        assert_eq!(root.to_entry().root_dev, 31);
    }

    #[test]
    fn images_that_are_no_trees_are_damaged() {
        let change = |change: &dyn Fn(&mut Vec<MntEntry>)| {
            let mut entries: Vec<MntEntry> = read(TEXT).iter().map(Mount::to_entry).collect();
            change(&mut entries);
            Namespace::from_entries(1, &entries).map(drop).map_err(|p| p.cause.to_string())
        };
        let says = |result: Result<(), String>, part: &str| assert!(result.unwrap_err().contains(part));
        says(change(&|entries| entries[1].mnt_id = 30), "one id");
        says(change(&|entries| entries.clear()), "no mount is the root");
        says(change(&|entries| entries[0].parent_mnt_id = 33), "no mount is the root");
        says(change(&|entries| entries[1].parent_mnt_id = 99), "not all");
        says(change(&|entries| entries[1].parent_mnt_id = 32), "not below");
        says(change(&|entries| entries[1].mountpoint = "/../x".into()), "path");
        says(change(&|entries| entries[1].root = "x".into()), "path");
    }
}
