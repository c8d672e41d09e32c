//! Descriptors: which kind claims one, which of them share an open file description, and how they come back.
//!
//! A descriptor is a number in a table; what it refers to is an open file description, which several numbers in several
//! tasks may share. Dump gives each description one id and has its kind describe it once. Restore has the kind make it
//! once, in the engine, and passes it to every task that has a number for it.

pub mod bpf_map;
pub mod description;
pub mod device;
mod duplicate;
pub mod ended;
pub mod epoll;
pub mod erased;
pub mod eventfd;
pub mod facts;
pub mod fanotify;
pub mod fifo;
pub mod foreign;
pub mod ghost;
pub mod inet;
pub mod inet_address;
pub mod inet_groups;
pub mod inet_options;
pub mod inode_scan;
pub mod inotify;
pub mod locks;
pub mod memfd;
pub mod mounted;
pub mod name;
pub mod namespace;
pub mod netlink;
pub mod packet;
pub mod packet_diag;
pub mod pidfd;
pub mod pipe;
pub mod pipe_data;
pub mod policy;
pub mod posix_queue;
pub mod regular;
pub mod remap;
mod seen_task;
pub mod signalfd;
pub mod sock_diag;
pub mod socket_options;
pub mod socket_queue;
pub mod socket_reading;
pub mod states;
pub mod tcp;
mod tcp_closed;
pub mod timerfd;
pub mod tty;
pub mod tun;
pub mod unix;
pub mod unix_calls;
pub mod unix_names;
pub mod unix_world;
pub mod validation;
pub mod watched;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use proto::messages::{FdTypes, FdinfoEntry, FileEntry};

use crate::dump::inspect::TaskFacts;
use crate::dump::places::Descriptor;
use crate::error::{Class, Explain, Problem};
use crate::image::{Images, NewImages};
use crate::net_spaces;
use crate::options::{DumpOptions, RestoreOptions, Unsupported};
use crate::pid_spaces::PidInside;
use crate::supervise::LastDeeds;
use crate::sys::{self, process, socket};
use crate::task_spaces::Members;
use crate::tracee::batch::{Batch, Replies};

pub use description::set_common;
use description::{entry_of, flags_of};
pub use erased::{Erase, Erased, ErasedFileKind};
use facts::Seen;
pub use facts::{FdFacts, SocketFacts, Table, Tables, list};
pub use seen_task::SeenTask;
pub use states::States;

/// Why a descriptor cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum FileRefusal {
    /// No kind claims it.
    #[error("descriptors of this kind are not supported yet")]
    NoKind,
    /// No kind claims it, and there is a reason.
    #[error("it is {}, {}", .0.what, .0.why)]
    Foreign(&'static foreign::Foreign),
    /// More than one does.
    #[error("several kinds claim it: {0}")]
    SeveralKinds(String),
    /// An image names a type that no kind has.
    #[error("files of type {0} are not supported yet")]
    NoKindOfType(String),
    /// An id without a file.
    #[error("the image set has no file with id {0}")]
    NoSuchId(u32),
}

impl Explain for FileRefusal {
    fn class(&self) -> Class {
        if matches!(self, Self::SeveralKinds(_)) { Class::Bug } else { Class::Refused }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NoKind => Some("close it first, or lose it with --on-unsupported any=close".into()),
            Self::Foreign(foreign) => Some(foreign.help()),
            _ => None,
        }
    }
}

/// One kind of open file description.
pub trait FileKind: 'static {
    /// What it is called in logs, errors, the zoo and the documentation.
    const NAME: &'static str;
    /// What of it is not saved, for users to know.
    const NOT_SAVED: &'static [&'static str] = &[];
    /// Its type in images.
    const TYPE: FdTypes;
    /// Its member of `file_entry`.
    type Image: Clone;

    /// Whether the descriptor is of this kind. Pure; exactly one kind may claim a descriptor.
    fn claims(fd: &FdFacts<'_>) -> bool;
    /// Its member of `file_entry`.
    fn member(entry: &mut FileEntry) -> &mut Option<Box<Self::Image>>;
    /// Describes it under the id `id`.
    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<Self::Image, Problem>;
    /// Looks for files that are only reached through files of this kind, when all tables are known.
    fn explore(_cx: &mut FilesDump<'_>, _problems: &mut Vec<Problem>) {}
    /// Finds what can be refused only when all descriptors are known.
    fn check_dumped(_cx: &mut FilesDump<'_>, _problems: &mut Vec<Problem>) {}
    /// Writes what belongs to the kind as a whole, when all descriptors are known.
    fn finish(_cx: &mut FilesDump<'_>, _images: &mut NewImages) -> Result<(), Problem> {
        Ok(())
    }
    /// Does what must come last, when the images are complete and the tasks are about to be killed.
    fn leave(_cx: &mut FilesDump<'_>) -> Result<(), Problem> {
        Ok(())
    }
    /// Finds what would make a restore fail, before anything is created.
    fn check(_cx: &FilesRestore<'_>, _image: &Self::Image) -> Result<(), Problem> {
        Ok(())
    }
    /// Makes what must be made by certain tasks, or together: once, before any file is made for a table.
    fn prepare(_cx: &mut FilesRestore<'_>, _tasks: &mut dyn InTask) -> Result<(), Problem> {
        Ok(())
    }
    /// The entry of a regular file that is only the name of this one, which the kind itself looks after.
    fn name(_image: &Self::Image) -> Option<u32> {
        None
    }
    /// Acts in the leader of a session that has just begun, before it has children.
    fn begin_session(
        _cx: &mut FilesRestore<'_>,
        _session: i32,
        _leader: &mut RunBatch<'_>,
    ) -> Result<(), Problem> {
        Ok(())
    }
    /// Makes it.
    fn restore(cx: &mut FilesRestore<'_>, image: &Self::Image) -> Result<OwnedFd, Problem>;
    /// Does what must come last, when all tasks are ready to run.
    fn release(_cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
    /// Ties it to other files, when all of them are in their tasks.
    fn connect(
        _cx: &mut FilesRestore<'_>,
        _tasks: &mut dyn InTask,
        _image: &Self::Image,
    ) -> Result<(), Problem> {
        Ok(())
    }
    /// Does what must come when everything else is done, for what came before would be noticed.
    fn settle(_cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
}

/// Lets a kind act inside of the task that has a certain file.
pub trait InTask {
    /// Has a task that holds file `id` run a batch; `fd` is its number there.
    fn run_where<'fd>(
        &mut self,
        id: u32,
        batch: &mut dyn FnMut(i32, &mut Batch<'fd>),
    ) -> Result<Replies, Problem>;

    /// Has the task with this pid run a batch; nothing if there is no such task.
    ///
    /// `spare` is a descriptor number that the batch may use in between, before the task has its files.
    fn run_in<'fd>(
        &mut self,
        pid: i32,
        batch: &mut dyn FnMut(i32, &mut Batch<'fd>),
    ) -> Result<Option<Replies>, Problem>;
    /// How the task with this pid numbers another task, or a group or session; none if that is outside of its pid namespace.
    fn seen_from(&self, pid: i32, other: i32) -> Option<PidInside>;
    /// A task that will hold file `id`, with the effective ids that it will have.
    fn holder(&self, id: u32) -> Option<socket::Credentials>;
    /// The file that is a certain descriptor of a task.
    fn file_of(&self, pid: i32, fd: i32) -> Option<u32>;
}

/// Has a task, which the giver knows, run a batch.
pub type RunBatch<'a> = dyn FnMut(&Batch<'_>) -> Result<Replies, Problem> + 'a;

/// A description that was seen before, by one descriptor that refers to it.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: u32,
    pid: i32,
    fd: i32,
}

/// What makes a file that is known by a link alone another one: the link, the inode, flags.
type PathKey = (Vec<u8>, (u64, u64), i32, i32);

/// Files of a tree that is being dumped.
#[derive(Debug)]
pub struct FilesDump<'a> {
    /// What the user asked for.
    pub options: &'a DumpOptions,
    /// Whether the tree runs: then nothing may be changed, not even for a moment.
    pub looks_only: bool,
    /// Pids of all tasks of the tree, in our pid namespace.
    members: BTreeSet<i32>,
    /// What whoever guards the end of the tree does in our place ([`FileKind::leave`]).
    pub last_deeds: LastDeeds,
    tasks: Vec<SeenTask>,
    entries: Vec<FileEntry>,
    known: HashMap<(u64, u64, i32), Vec<Known>>,
    /// Lines of tables, by where their descriptions are.
    placed: HashMap<u64, FdinfoEntry>,
    paths: HashMap<PathKey, u32>,
    /// By task.
    unasked: HashMap<i32, Vec<i32>>,
    sorts: Arc<socket_reading::Sorts>,
    states: States,
}

impl<'a> FilesDump<'a> {
    /// No files yet.
    pub fn new(options: &'a DumpOptions) -> Self {
        Self {
            options,
            looks_only: false,
            members: BTreeSet::new(),
            last_deeds: LastDeeds::default(),
            tasks: Vec::new(),
            entries: Vec::new(),
            known: HashMap::new(),
            placed: HashMap::new(),
            paths: HashMap::new(),
            unasked: HashMap::new(),
            sorts: Arc::default(),
            states: States::default(),
        }
    }

    /// What a kind keeps for itself.
    pub fn state<T: Default + 'static>(&mut self) -> &mut T {
        self.states.get()
    }

    /// The tasks whose tables were described so far.
    pub fn tasks(&self) -> &[SeenTask] {
        &self.tasks
    }

    /// An id for a file, unique in the image set and never 0.
    pub fn new_id(&mut self) -> u32 {
        self.entries.len() as u32 + 1
    }

    /// Takes note of a task of the tree.
    pub fn add_member(&mut self, pid: i32) {
        self.members.insert(pid);
    }

    /// The table of the next of these tasks.
    pub fn next_table<'t>(&self, tables: &mut Tables<'t>) -> Option<Table<'t>> {
        tables.next(&self.sorts)
    }

    /// Describes the whole descriptor table of a task; every refusal goes to `problems`.
    pub fn dump_table<'t>(
        &mut self,
        facts: &'t TaskFacts,
        table: Table<'t>,
        problems: &mut Vec<Problem>,
    ) -> Vec<FdinfoEntry> {
        self.tasks.push(SeenTask::of(facts));
        let mut entries = Vec::with_capacity(table.len());
        let (options, sorts) = (self.options, Arc::clone(&self.sorts));
        let read =
            table.read(&options.files, &sorts, facts, |descriptor| match self.dump_seen(facts, descriptor) {
                Ok(entry) => entries.extend(entry),
                Err(problem) => problems.push(problem),
            });
        problems.extend(read.err());
        entries
    }

    fn dump_seen(&mut self, task: &TaskFacts, seen: Seen<'_>) -> Result<Option<FdinfoEntry>, Problem> {
        match seen {
            Seen::Read(descriptor) => {
                let descriptor = (*descriptor)?;
                let entry = self.dump_known(&descriptor)?;
                self.placed.extend(descriptor.place.zip(entry.clone()));
                Ok(entry)
            }
            Seen::Again(Descriptor { fd, file, cloexec }) => match self.placed.get(&file) {
                Some(known) => {
                    Ok(Some(FdinfoEntry { fd: fd as u32, flags: flags_of(cloexec), ..known.clone() }))
                }
                None => self.dump_fd(task.pid, task.pidfd.as_fd(), fd),
            },
        }
    }

    /// Descriptors of a task of which it must still be asked whether execve closes them.
    pub fn unasked(&self, pid: i32) -> &[i32] {
        self.unasked.get(&pid).map(Vec::as_slice).unwrap_or_default()
    }

    /// Describes one descriptor of a task. Nothing of the task is changed, so it need not be stopped for a mere look.
    ///
    /// None if the user would rather lose it than have the dump refused.
    pub fn dump_fd(
        &mut self,
        pid: i32,
        pidfd: BorrowedFd<'_>,
        fd: i32,
    ) -> Result<Option<FdinfoEntry>, Problem> {
        self.dump_known(&FdFacts::read(pid, pidfd, fd, &self.sorts.clone())?)
    }

    fn dump_known(&mut self, facts: &FdFacts<'_>) -> Result<Option<FdinfoEntry>, Problem> {
        if facts.cloexec.is_none() {
            self.unasked.entry(facts.pid).or_default().push(facts.fd);
        }
        let described = self.describe_fd(facts).or_else(|problem| self.instead(facts, problem));
        described.map_err(|p| p.object(facts.object()))
    }

    /// What the user wants done about a descriptor that is refused.
    fn instead(&mut self, facts: &FdFacts<'_>, problem: Problem) -> Result<Option<FdinfoEntry>, Problem> {
        let name = policy::name_of(facts);
        match policy::choice(&self.options.files, &name) {
            _ if problem.cause.class() != Class::Refused => Err(problem),
            Unsupported::Refuse => Err(problem),
            Unsupported::Close => {
                policy::note_lost(self, facts, &name, Unsupported::Close, &problem);
                Ok(None)
            }
            Unsupported::Reopen => {
                let id = self.description(regular::Regular::ERASED, facts)?;
                policy::note_lost(self, facts, &name, Unsupported::Reopen, &problem);
                Ok(Some(entry_of(facts, regular::Regular::ERASED, id)))
            }
        }
    }

    fn describe_fd(&mut self, facts: &FdFacts<'_>) -> Result<Option<FdinfoEntry>, Problem> {
        let kind = match policy::external_file(&self.options.files, facts) {
            Some(_) => regular::Regular::ERASED,
            None => claim(facts)?,
        };
        let id = self.description(kind, facts)?;
        locks::note(self, facts, id)?;
        Ok(Some(entry_of(facts, kind, id)))
    }

    /// Takes descriptors out of a table that are to be lost, as was found when all were known.
    pub fn without_closed(&mut self, table: &mut Vec<FdinfoEntry>) {
        table.retain(|entry| !policy::is_closed(self, entry.id));
    }

    /// The id of the description, which is described when it is met for the first time.
    fn description(&mut self, kind: &'static dyn ErasedFileKind, fd: &FdFacts<'_>) -> Result<u32, Problem> {
        // Descriptors that differ in any of these cannot share a description.
        let key = (fd.stat.st_dev, fd.stat.st_ino, fd.flags());
        let place = {
            let known = self.known.entry(key).or_default();
            let mut failed = None;
            let place = known.binary_search_by(|other| {
                process::kcmp_file((other.pid, other.fd), (fd.pid, fd.fd)).unwrap_or_else(|e| {
                    failed = Some(e);
                    Ordering::Equal
                })
            });
            if let Some(e) = failed {
                return Err(Problem::new(e).step("find out which descriptors are one"));
            }
            match place {
                Ok(at) => return Ok(known.get(at).map_or(0, |k| k.id)),
                Err(place) => place,
            }
        };
        let id = self.new_id();
        // Reserved now, because a kind may add other files of its own.
        self.entries.push(FileEntry { id, ..FileEntry::default() });
        let entry = net_spaces::dump_file(self, kind, fd, id)?;
        self.replace(entry);
        self.known.entry(key).or_default().insert(place, Known { id, pid: fd.pid, fd: fd.fd });
        Ok(id)
    }

    /// The id of a file that is known by a link in `/proc` alone: a working directory, a mapped file.
    pub fn add_path(&mut self, seen: &name::Seen<'_>, flags: i32) -> Result<u32, Problem> {
        let key = (seen.link.to_vec(), seen.inode(), flags, mounted::foreign(self, seen)?);
        if let Some(id) = self.paths.get(&key) {
            return Ok(*id);
        }
        let id = self.new_id();
        self.entries.push(FileEntry { id, ..FileEntry::default() });
        let entry = regular::entry_for_path(self, id, seen, flags)?;
        self.replace(entry);
        self.paths.insert(key, id);
        Ok(id)
    }

    /// The id of a file that is known otherwise than by a descriptor.
    pub fn add_entry(&mut self, make: impl FnOnce(u32) -> FileEntry) -> u32 {
        let id = self.new_id();
        self.entries.push(make(id));
        id
    }

    /// The id of the name of a file that is of another kind itself, such as a fifo.
    pub fn add_named(&mut self, fd: &FdFacts<'_>) -> Result<u32, Problem> {
        let id = self.new_id();
        self.entries.push(FileEntry { id, ..FileEntry::default() });
        let reg = Some(Box::new(regular::Regular::dump(self, fd, id)?));
        self.replace(FileEntry { r#type: FdTypes::Reg.into(), id, reg, ..FileEntry::default() });
        Ok(id)
    }

    /// The id of an open file that we hold ourselves, as somebody in the tree will.
    pub fn dump_own(&mut self, fd: &OwnedFd) -> Result<u32, Problem> {
        let pid = std::process::id() as i32;
        let pidfd = sys::pidfd::open(pid)?;
        let entry = self.dump_fd(pid, pidfd.as_fd(), std::os::fd::AsRawFd::as_raw_fd(fd))?;
        entry.map(|entry| entry.id).ok_or_else(|| Problem::new(FileRefusal::NoKind))
    }

    /// Adds an entry whose id [`FilesDump::new_id`] has just given.
    fn push(&mut self, entry: FileEntry) {
        self.entries.push(entry);
    }

    /// The entry of an id.
    fn entry_mut(&mut self, id: u32) -> Option<&mut FileEntry> {
        self.entries.get_mut((id as usize).checked_sub(1)?)
    }

    /// The unix socket with this id, to complete what is said of it.
    fn unix_entry(&mut self, id: u32) -> Option<&mut proto::messages::UnixSkEntry> {
        self.entry_mut(id)?.usk.as_deref_mut()
    }

    /// The id of a name that another kind looks after.
    pub fn add_name(&mut self, name: proto::messages::RegFileEntry) -> u32 {
        let id = self.new_id();
        let reg = proto::messages::RegFileEntry { id, ..name };
        self.entries.push(FileEntry {
            r#type: FdTypes::Reg.into(),
            id,
            reg: Some(Box::new(reg)),
            ..FileEntry::default()
        });
        id
    }

    /// The internet socket with this id, to complete what is said of it.
    fn inet_entry(&mut self, id: u32) -> Option<&mut proto::messages::InetSkEntry> {
        self.entry_mut(id)?.isk.as_deref_mut()
    }

    /// Does what must come last, before the tasks are killed.
    pub fn leave(&mut self) -> Result<(), Problem> {
        super::FILE_KINDS.iter().try_for_each(|kind| kind.leave(self))
    }

    /// Puts an entry into the place that was reserved for its id.
    fn replace(&mut self, entry: FileEntry) {
        if let Some(slot) = self.entries.get_mut(entry.id as usize - 1) {
            *slot = entry;
        }
    }

    /// Finds what can be refused only when all descriptors are known.
    pub fn check(&mut self, problems: &mut Vec<Problem>) {
        for kind in super::FILE_KINDS {
            kind.explore(self, problems);
        }
        for kind in super::FILE_KINDS {
            kind.check_dumped(self, problems);
        }
        locks::check_dumped(self, problems);
        for kind in super::MAPPING_KINDS {
            kind.check_dumped(self, problems);
        }
    }

    /// Writes `files.img` and the kinds' own files.
    pub fn finish(&mut self, images: &mut NewImages) -> Result<(), Problem> {
        for kind in super::FILE_KINDS {
            kind.finish(self, images)?;
        }
        for kind in super::MAPPING_KINDS {
            kind.finish(self, images)?;
        }
        std::mem::take(self.state::<socket_queue::Sockets>()).write(images)?;
        locks::finish(self, images)?;
        remap::finish(self, images)?;
        inotify::forget_ours(self)?;
        policy::finish(self, images)?;
        device::finish(self, images)?;
        // What was reserved for a file that was refused, and is lost as the user wanted, is nobody's.
        self.entries.retain(|entry| entry.r#type != i32::from(FdTypes::Und));
        images.write(&proto::catalogue::FILES, 0, &self.entries)
    }
}

/// The one kind that claims a descriptor.
pub fn claim(fd: &FdFacts<'_>) -> Result<&'static dyn ErasedFileKind, FileRefusal> {
    let mut claiming = super::FILE_KINDS.iter().filter(|kind| kind.claims(fd));
    match (claiming.next(), claiming.next()) {
        (Some(kind), None) => Ok(*kind),
        (None, _) => Err(foreign::known(fd).map_or(FileRefusal::NoKind, FileRefusal::Foreign)),
        (Some(a), Some(b)) => Err(FileRefusal::SeveralKinds(format!("{}, {}", a.name(), b.name()))),
    }
}

/// Files of a tree that is being restored.
#[derive(Debug)]
pub struct FilesRestore<'a> {
    /// What the user asked for.
    pub options: &'a RestoreOptions,
    /// The image set.
    pub images: &'a Images,
    /// Which namespaces tasks are in.
    pub members: Members,
    /// What was decided when it was dumped.
    policy: policy::Policy,
    /// What stands in for names.
    remaps: remap::Remaps,
    /// Which devices nodes were.
    devices: device::Devices,
    entries: BTreeMap<u32, FileEntry>,
    opened: HashMap<u32, OwnedFd>,
    states: States,
}

impl<'a> FilesRestore<'a> {
    /// Reads `files.img`.
    pub fn read(options: &'a RestoreOptions, images: &'a Images, members: Members) -> Result<Self, Problem> {
        let entries: Vec<FileEntry> = images.read(&proto::catalogue::FILES, 0)?;
        let entries = entries.into_iter().map(|e| (e.id, e)).collect();
        let mut states = States::default();
        *states.get() = socket_queue::Sockets::load(images)?;
        *states.get() = posix_queue::Saved::read(images)?;
        let remaps = remap::Remaps::read(images)?;
        let policy = policy::Policy::read(images)?;
        let devices = device::Devices::read(images)?;
        Ok(Self {
            options,
            images,
            members,
            policy,
            remaps,
            devices,
            entries,
            opened: HashMap::new(),
            states,
        })
    }

    /// What a kind keeps for itself.
    pub fn state<T: Default + 'static>(&mut self) -> &mut T {
        self.states.get()
    }

    /// What a kind keeps for itself, if it has kept anything.
    pub fn peek<T: 'static>(&self) -> Option<&T> {
        self.states.peek()
    }

    /// Finds what would make a restore of any file fail; `file_of` gives the id of a descriptor of a task.
    pub fn check(&self, file_of: &dyn Fn(i32, i32) -> Option<u32>, problems: &mut Vec<Problem>) {
        policy::check(self, problems);
        let names: HashSet<u32> =
            self.entries.values().filter_map(|entry| kind_of(entry).ok()?.name_of(entry)).collect();
        let mut told = HashSet::new();
        for entry in self.entries.values().filter(|entry| !names.contains(&entry.id)) {
            let checked = net_spaces::check_file(self, entry);
            if let Err(problem) = checked
                // A file that many entries stand for is told about once.
                && told.insert(format!("{:?} {}", problem.object, problem.cause))
            {
                problems.push(problem);
            }
        }
        let name = |pid, fd| {
            let id = file_of(pid, fd).filter(|id| !self.remaps.has(*id))?;
            self.regular(id).ok().map(|reg| reg.name.clone())
        };
        locks::check(self, &name, problems);
    }

    /// Makes what kinds make by certain tasks, or together.
    pub fn prepare(&mut self, tasks: &mut dyn InTask) -> Result<(), Problem> {
        super::FILE_KINDS.iter().try_for_each(|kind| kind.prepare(self, tasks))
    }

    /// Does what must come last, before the tasks run.
    pub fn release(&mut self) -> Result<(), Problem> {
        super::FILE_KINDS.iter().try_for_each(|kind| kind.release(self))
    }

    /// All ids.
    pub fn ids(&self) -> Vec<u32> {
        self.entries.keys().copied().collect()
    }

    /// The regular file with this id; mappings and directories are always such.
    pub fn regular(&self, id: u32) -> Result<&proto::messages::RegFileEntry, Problem> {
        let missing = || Problem::new(FileRefusal::NoSuchId(id));
        self.entries.get(&id).and_then(|e| e.reg.as_deref()).ok_or_else(missing)
    }

    /// All files of a kind.
    pub fn images_of<K: FileKind>(&self) -> Vec<K::Image> {
        let of_kind = self.entries.values().filter(|entry| entry.r#type == i32::from(K::TYPE));
        of_kind.filter_map(|entry| K::member(&mut entry.clone()).take()).map(|image| *image).collect()
    }

    /// Lets kinds act in the leader of a session that has just begun.
    pub fn begin_session(&mut self, session: i32, leader: &mut RunBatch<'_>) -> Result<(), Problem> {
        super::FILE_KINDS.iter().try_for_each(|kind| kind.begin_session(self, session, leader))
    }

    /// The file with this id, made when it is asked for the first time.
    pub fn open(&mut self, id: u32) -> Result<BorrowedFd<'_>, Problem> {
        if !self.opened.contains_key(&id) {
            let entry =
                self.entries.get(&id).cloned().ok_or_else(|| Problem::new(FileRefusal::NoSuchId(id)))?;
            let fd = net_spaces::restore_file(self, &entry)?;
            self.opened.insert(id, fd);
        }
        self.opened.get(&id).map(|fd| fd.as_fd()).ok_or_else(|| Problem::new(FileRefusal::NoSuchId(id)))
    }

    /// Files that were opened already; for many at once, after [`FilesRestore::open`] of each.
    pub fn opened(&self, id: u32) -> Option<BorrowedFd<'_>> {
        self.opened.get(&id).map(|fd| fd.as_fd())
    }

    /// Closes our own descriptors: from now on the tasks alone hold their files, and see when the last holder is gone.
    pub fn close(&mut self) -> Result<(), Problem> {
        self.opened.clear();
        super::FILE_KINDS.iter().try_for_each(|kind| kind.settle(self))?;
        self.states = States::default();
        Ok(())
    }

    /// Takes away what was on disk for the restore alone, when the tree runs.
    pub fn succeeded(mut self) {
        self.remaps.remove_spent();
    }

    /// Ties files to each other.
    pub fn connect(&mut self, tasks: &mut dyn InTask) -> Result<(), Problem> {
        let entries: Vec<FileEntry> = self.entries.values().cloned().collect();
        entries.iter().try_for_each(|entry| kind_of(entry)?.connect(self, tasks, entry))?;
        locks::restore(self, tasks)
    }
}

/// The kind of a file in an image.
pub(crate) fn kind_of(entry: &FileEntry) -> Result<&'static dyn ErasedFileKind, Problem> {
    let name = FdTypes::try_from(entry.r#type).map_or_else(|e| e.to_string(), |t| t.as_str_name().to_owned());
    let kind = super::FILE_KINDS.iter().find(|kind| i32::from(kind.file_type()) == entry.r#type);
    kind.copied().ok_or_else(|| Problem::new(FileRefusal::NoKindOfType(name)))
}
