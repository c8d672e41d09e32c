//! What a user can ask for, after parsing: plain data, passed down by reference, never global.

use std::path::PathBuf;
use std::time::Duration;

use crate::cgroups::wanted::Props;
use crate::inside::Home;
use crate::made_files::MadeFiles;
use crate::mounts::surroundings::Surroundings;
use crate::procfs::id_map::IdMaps;
use crate::procfs::link::NamespaceType;

/// Options of `dump`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// Host pid of the root of the tree.
    pub tree: i32,
    /// Where the image files go.
    pub images_dir: PathBuf,
    /// Where logs, pid files and statistics go.
    pub work_dir: PathBuf,
    /// What becomes of the tree after a successful dump.
    pub afterwards: Afterwards,
    /// Session and terminal belong to the caller.
    pub shell_job: bool,
    /// How long the tree may take to freeze.
    pub timeout: Timeout,
    /// Unix sockets outside of the tree whose loss is accepted.
    pub external_unix: ExternalUnix,
    /// What becomes of open files.
    pub files: FileOptions,
    /// What becomes of namespaces.
    pub namespaces: NamespaceOptions,
    /// Compute no checksums.
    pub skip_checksums: bool,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// Leave out TCP connections that nobody has accepted.
    pub skip_in_flight: bool,
    /// How packets are held back.
    pub network_lock: NetworkLock,
    /// Say at the end what was dumped and how long it took.
    pub display_stats: bool,
    /// What is logged, and where.
    pub log: LogOptions,
    /// Whether the processor is described, for a restore to compare.
    pub describe_cpu: bool,
    /// What becomes of control groups.
    pub cgroups: CgroupOptions,
    /// The control group to freeze the tree with.
    pub freeze_cgroup: Option<PathBuf>,
    /// What becomes of mounts.
    pub mounts: MountOptions,
    /// Where we went before the dump began; nobody asks for this.
    pub inside: Inside,
}

/// What becomes of control groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupOptions {
    /// How far they are taken care of.
    pub manage: ManageCgroups,
    /// What takes the place of the group that the tree's root is in: of all hierarchies, or of those with this controller.
    pub roots: Vec<(Option<String>, PathBuf)>,
    /// The directory below which hierarchies are mounted.
    pub yard: Option<PathBuf>,
    /// Which settings are kept, beside those that are as a rule, or in their place (`--cgroup-props`).
    pub props: Props,
    /// The only controllers that count, if there are any (`--cgroup-dump-controller`).
    pub controllers: Vec<String>,
}

impl CgroupOptions {
    /// Whether a hierarchy counts, by its name in `/proc/PID/cgroup`.
    pub fn counts(&self, hierarchy: &str) -> bool {
        let is_one = |name: &String| {
            hierarchy.split(',').any(|controller| controller.trim_start_matches("name=") == name)
                || (hierarchy.is_empty() && name == "unified")
        };
        self.controllers.is_empty() || self.controllers.iter().any(is_one)
    }
}

/// How far control groups are taken care of (`--manage-cgroups`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ManageCgroups {
    /// Nobody asked: tasks go back into their groups, where those are; else there is a warning.
    #[default]
    Members,
    /// As if there were none.
    Ignore,
    /// Groups have to be there, and stay as they are.
    None,
    /// Groups have to be there, and get their settings.
    Props,
    /// Groups that are missing are made, and those get their settings.
    Soft,
    /// Groups that are missing are made, and all get their settings.
    Full,
    /// No group may be there yet.
    Strict,
}

impl ManageCgroups {
    /// Whether images tell what groups look like, and not only who is in which.
    pub const fn describes_groups(self) -> bool {
        match self {
            Self::Members | Self::Ignore | Self::None => false,
            Self::Props | Self::Soft | Self::Full | Self::Strict => true,
        }
    }
}

/// What becomes of namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceOptions {
    /// Namespaces that live outside of the tree, and the names under which they are handed in at restore
    /// (`--external net[INODE]:NAME`).
    pub external: Vec<ExternalNamespace>,
    /// Namespaces that are entered by a restore instead of being made (`--join-ns`), by files for them.
    pub join: Vec<(NamespaceType, PathBuf)>,
    /// The network namespace is left empty (`--empty-ns net`).
    pub empty_net: bool,
    /// A tree whose pids are taken gets a pid namespace of its own (`--own-pidns`).
    pub own_pids: bool,
}

/// A namespace that lives outside of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalNamespace {
    /// Its type.
    pub kind: NamespaceType,
    /// Its inode number, which `/proc/PID/ns` shows.
    pub inode: u64,
    /// What it is called at restore.
    pub name: String,
}

impl NamespaceOptions {
    /// The name of a namespace of a process, if it is external.
    pub fn external_name(&self, pid: i32, kind: NamespaceType) -> Option<&str> {
        if self.external.is_empty() {
            return None;
        }
        let inode = nix::sys::stat::stat(format!("/proc/{pid}/ns/{}", kind.name()).as_str()).ok()?.st_ino;
        let same = |external: &&ExternalNamespace| external.kind == kind && external.inode == inode;
        self.external.iter().find(same).map(|external| &*external.name)
    }
}

/// Namespaces of the tree that we are in ourselves while we work (`inside.rs`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// Types of those that are not the ones the command was called in. Of these we are in all but a user namespace, so that
    /// we keep our privileges.
    pub types: Vec<NamespaceType>,
    /// Of these, those that others look after: external ones, and ones that a restore joins.
    pub shared: Vec<NamespaceType>,
    /// The root's pid where the command was called; 0 if it is no other than inside.
    pub outer_pid: i32,
    /// The root's pid inside.
    pub inner_pid: i32,
    /// Ids of its user namespace, if it has one.
    pub ids: IdMaps,
    /// What is mounted where the command was called.
    pub surroundings: Surroundings,
    /// Files that no path leads to in the restored namespaces, by their ids in the images: descriptors of ours.
    pub covered: Vec<(u32, i32)>,
    /// Restored mount namespaces that other tasks than the root are in, by their ids in the images: descriptors of ours.
    pub mounts: Vec<(u32, i32)>,
    /// The inode number of the network namespace that the command was called in, if the tree has its own.
    pub outer_net: Option<u64>,
    /// Where the kernel lists its timers, if that is elsewhere than in the procfs here.
    pub timer_list: Option<PathBuf>,
    /// Where tunables can be written, if that is elsewhere than in the procfs here: a container's is often read-only.
    pub tunables: Option<PathBuf>,
    /// The mounts of those who called the command, if the tree has its own.
    pub home: Option<Home>,
    /// Masters of pseudo-terminals that were opened while mounts were built.
    pub masters: MadeFiles,
    /// Network namespaces that were made beyond that of the root.
    pub spaces: MadeFiles,
    /// The number that was given last in the pid namespace of the root, before we took any.
    pub last_pid: Option<i32>,
    /// User namespaces that were made below that of the root.
    pub users: MadeFiles,
}

impl Inside {
    /// Whether the tree has a namespace of this type for itself, and nobody else looks after it.
    pub fn has(&self, kind: NamespaceType) -> bool {
        self.types.contains(&kind) && !self.shared.contains(&kind)
    }
}

/// What becomes of TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connections {
    /// They stand in the way of a dump.
    #[default]
    Refused,
    /// `--tcp-established`: they go on.
    Kept,
    /// `--tcp-close`: they are closed when the tree runs again.
    Closed,
}

/// How packets are held back while nobody is there to take them (`--network-lock`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkLock {
    /// By a table of nftables.
    #[default]
    Nftables,
    /// By chains of iptables.
    Iptables,
    /// Not at all.
    Skip,
}

/// Unix sockets outside of the tree whose loss is accepted (`--ext-unix-sk`, `--external unix[INO]`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalUnix {
    /// All of them.
    pub all: bool,
    /// These, by inode number.
    pub inodes: Vec<u32>,
}

impl ExternalUnix {
    /// Whether a socket of the tree may lose its peer.
    pub fn allows(&self, own: u32, peer: u32) -> bool {
        self.all || self.inodes.contains(&own) || self.inodes.contains(&peer)
    }
}

/// What becomes of the tasks when the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Afterwards {
    /// The default: kill after a dump, run after a restore.
    #[default]
    Default,
    /// `--leave-running` (dump only).
    LeaveRunning,
    /// `--leave-stopped`: stopped as by `SIGSTOP`.
    LeaveStopped,
}

/// Options of `restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Where the image files are.
    pub images_dir: PathBuf,
    /// Where logs, pid files and statistics go.
    pub work_dir: PathBuf,
    /// Whose child the root becomes, and whether the command waits for it.
    pub parent: Parent,
    /// Run or leave stopped.
    pub afterwards: Afterwards,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// Descriptors that the caller left open for us, and what each stands for (`--inherit-fd`).
    pub inherit_fds: Vec<(i32, String)>,
    /// Do not compare images with their checksums.
    pub skip_checksums: bool,
    /// Map large parts of memory from the images instead of reading them.
    pub map_pages: bool,
    /// File that receives the root's pid; relative to the work directory.
    pub pidfile: Option<PathBuf>,
    /// Session and terminal belong to the caller.
    pub shell_job: bool,
    /// What becomes of control groups.
    pub cgroups: CgroupOptions,
    /// What becomes of open files.
    pub files: FileOptions,
    /// What becomes of namespaces.
    pub namespaces: NamespaceOptions,
    /// Say at the end what was restored and how long it took.
    pub display_stats: bool,
    /// What becomes of mounts.
    pub mounts: MountOptions,
    /// What network namespaces are tied to.
    pub net: NetOptions,
    /// Tunables that cannot be set are passed over (`--weak-sysctls`).
    pub weak_sysctls: bool,
    /// What the processor must have in common with the one that the set was made on.
    pub cpu_cap: CpuCap,
    /// What is logged, and where.
    pub log: LogOptions,
    /// Where we went before the restore began; nobody asks for this. The root of the tree is there already.
    pub inside: Inside,
}

impl RestoreOptions {
    /// The descriptor that stands for a resource.
    pub fn inherited(&self, resource: &str) -> Option<i32> {
        self.inherit_fds.iter().find(|(_, known)| known == resource).map(|(fd, _)| *fd)
    }
}

/// Options of `verify`: those of the restore that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyOptions {
    /// The restore.
    pub restore: RestoreOptions,
}

/// What a network namespace of a tree is tied to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetOptions {
    /// Outer ends of pairs (`--external veth[IN]:OUT@BRIDGE`, `--veth-pair`).
    pub pairs: Vec<OuterEnd>,
    /// Outer devices that macvlans are on top of (`--external macvlan[IN]:OUT`).
    pub macvlans: Vec<OuterEnd>,
}

/// A device of the tree and what is outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OuterEnd {
    /// The name of the device of the tree.
    pub inner: String,
    /// The name of the other one.
    pub outer: String,
    /// The bridge that the other one becomes a port of.
    pub bridge: Option<String>,
}

/// Whose child the restored root task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parent {
    /// Ours: the command waits for the root task and ends as it ends.
    #[default]
    Foreground,
    /// `--restore-detached`: the command returns, and the root is given to the nearest subreaper.
    Detached,
    /// `--restore-sibling`: the root is a child of the command's parent.
    Sibling,
}

/// Options of `plan`, which looks at a tree and touches nothing: those of the dump that is planned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// The dump.
    pub dump: DumpOptions,
}

/// Options of `cleanup`, which removes what killed commands left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupOptions {
    /// Remove network locks that wait for a restore, too.
    pub all: bool,
    /// What is logged, and where.
    pub log: LogOptions,
}

/// What a processor must have in common with another (`--cpu-cap`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuCap {
    /// Registers that the other has.
    pub fpu: bool,
    /// Instructions that the other has.
    pub ins: bool,
    /// Everything: it is of the same model.
    pub cpu: bool,
}

/// What `cpuinfo` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuinfoAction {
    /// Describe the processor.
    Dump,
    /// Compare it with one that was described.
    Check,
}

/// Options of `cpuinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuinfoOptions {
    /// What to do.
    pub action: CpuinfoAction,
    /// Where the image file is.
    pub images_dir: PathBuf,
    /// What must be the same.
    pub cpu_cap: CpuCap,
    /// What is logged, and where.
    pub log: LogOptions,
}

/// Options of `check`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// What to look at.
    pub scope: CheckScope,
    /// What is logged, and where.
    pub log: LogOptions,
}

/// What `check` looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CheckScope {
    /// What no dump or restore can do without.
    #[default]
    Basic,
    /// That, and what some workloads need.
    Extra,
    /// The basics, and what is young.
    Experimental,
    /// Everything.
    All,
    /// These features.
    Features(Vec<String>),
    /// Nothing: list the names.
    List,
}

/// A limit of time, as `--timeout` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Duration);

impl Default for Timeout {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

/// What becomes of mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `--root`: the folder on which the root of the mount namespace is mounted.
    pub root: Option<PathBuf>,
    /// `--external mnt[A]:B`, `--ext-mount-map A:B`: at dump the mount point and its name, at restore the name and its path.
    pub external: Vec<(String, String)>,
    /// `--external mnt[]`: mounts that are outside are found where they are.
    pub auto: Option<AutoMounts>,
    /// `--enable-external-sharing`: external mounts may have peers outside.
    pub external_sharing: bool,
    /// `--enable-external-masters`: external mounts may have masters outside.
    pub external_masters: bool,
    /// `--enable-fs`: types of file systems that are mounted again from their source.
    pub enabled: Vec<String>,
    /// `--skip-mnt`: mounts that are left out.
    pub skip: Vec<String>,
}

/// What mounts that are found outside may have to do with others there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AutoMounts {
    /// `m`: they may have masters outside.
    pub masters: bool,
    /// `s`: they may have peers outside.
    pub sharing: bool,
}

impl MountOptions {
    /// Whether external mounts may have peers outside.
    pub fn allows_sharing(&self) -> bool {
        self.external_sharing || self.auto.is_some_and(|auto| auto.sharing)
    }

    /// Whether external mounts may have masters outside.
    pub fn allows_masters(&self) -> bool {
        self.external_masters || self.auto.is_some_and(|auto| auto.masters)
    }
}

/// What becomes of open files. Dump and restore read different fields of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Largest removed file that is kept.
    pub ghost_limit: GhostLimit,
    /// Files that have lost the name they are known by get another one until they are restored.
    pub link_remap: bool,
    /// File locks are taken along.
    pub file_locks: bool,
    /// How a restore recognizes a file that it opens again.
    pub validation: Validation,
    /// Permissions of files may differ from what they were.
    pub skip_rwx_check: bool,
    /// A device may be opened by another path than before.
    pub evasive_devices: bool,
    /// Names of watched inodes are looked for in these directories, or everywhere if there are none.
    pub irmap: Option<Vec<PathBuf>>,
    /// Resources that live outside of the tree, by their keys; they are handed in at restore.
    pub external: Vec<String>,
    /// What becomes of descriptors that cannot be saved, by kind.
    pub on_unsupported: Vec<(String, Unsupported)>,
}

/// How a restore recognizes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validation {
    /// By its size and, if it is a program, by its build id.
    #[default]
    BuildId,
    /// By its size.
    FileSize,
}

/// What becomes of a descriptor that cannot be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// The dump is refused.
    Refuse,
    /// The restored task does not have it.
    Close,
    /// It is opened again by its name, without what is known of its state.
    Reopen,
}

/// Bytes of the largest removed file that is kept, holes not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GhostLimit(pub u64);

impl Default for GhostLimit {
    fn default() -> Self {
        Self(1 << 20)
    }
}

/// What is logged, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// How much.
    pub level: LogLevel,
    /// Where; standard error if none. Relative to the work directory, which is already prepended here.
    pub file: Option<PathBuf>,
}

/// How much is logged, by the numbers of `-v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    Silent,
    Errors,
    #[default]
    Warnings,
    Info,
    Debug,
}

impl LogLevel {
    /// From a number; everything above 4 is 4.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Silent,
            1 => Self::Errors,
            2 => Self::Warnings,
            3 => Self::Info,
            _ => Self::Debug,
        }
    }
}
