//! What can be seen of a stopped task from outside, read once.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::{Arc, OnceLock};

use super::likeness::Likeness;
use super::namespace_links::{Links, NamespaceLinks, ThreadLinks};
use super::places::{Places, Remembered};
use super::vm_flags::{Mapped, SeenThread, VmFlagsReader};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::kinds::TASK_KINDS;
use crate::pid_spaces::PidInside;
use crate::procfs::id_map::{self, IdMaps};
use crate::procfs::smaps::SmapsVma;
use crate::procfs::stat::Stat;
use crate::procfs::status::Status;
use crate::procfs::{self, ParseError, smaps};
use crate::side_by_side;
use crate::sys::ptrace::{self, RseqConfiguration};
use crate::sys::{pidfd, process};
use crate::tracee::agent::Saved;
use crate::tracee::freeze::{FrozenTask, FrozenThread};
use crate::tracee::memory::Memory;
use crate::tracee::regs;
use crate::tracee::sleep::Sleep;

/// State of a task that stands in the way of a dump.
#[derive(Debug, thiserror::Error)]
pub enum TaskRefusal {
    /// 32-bit code.
    #[error("it runs 32-bit code, which is not supported yet")]
    Compat,
}

impl Explain for TaskRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }
}

/// What is known about one thread without asking it.
#[derive(Debug)]
pub struct ThreadFacts {
    /// Its id in our pid namespace.
    pub tid: i32,
    /// Its id in its own pid namespace.
    pub inside: PidInside,
    /// `/proc/PID/task/TID/stat`.
    pub stat: Stat,
    /// `/proc/PID/task/TID/status`.
    pub status: Status,
    /// Registers and signal mask.
    pub saved: Saved,
    /// Its rseq registration; all zero without one.
    pub rseq: RseqConfiguration,
    /// Head and length of its robust futex list.
    pub robust_list: (u64, u64),
    /// Its scheduling attributes.
    pub sched: libc::sched_attr,
    /// The call that it is to go on with.
    pub sleep: Option<Sleep>,
    /// What the kernel has of it, if that was seen, of a task with several threads.
    pub seen: Option<SeenThread>,
}

/// What is known about one task without asking it.
#[derive(Debug)]
pub struct TaskFacts {
    /// The id under which `/proc` shows it: its pid in our pid namespace, or the id of its first living thread if its
    /// leader has ended before the others.
    pub pid: i32,
    /// Its leader, if that has ended before the other threads.
    pub ended_leader: Option<EndedLeader>,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
    /// Its memory, as its first thread has it.
    pub memory: Memory,
    /// Its mappings.
    pub vmas: Vec<SmapsVma>,
    /// Where the kernel has what it has, if that was seen.
    pub places: Option<Box<Places>>,
    /// What it is known by, if others like it may answer for it.
    pub likeness: Option<Likeness>,
    /// Its resource limits.
    pub limits: procfs::limits::Limits,
    /// Its namespaces.
    pub namespaces: NamespaceLinks,
    /// The auxiliary vector that the kernel gave to its program.
    pub auxv: procfs::auxv::Auxv,
    /// Where its executable, working directory and root are.
    pub paths: Paths,
    /// Other files of `/proc/PID`, which kinds need.
    texts: Vec<(&'static str, Result<String, SysError>)>,
    /// Its threads that live, in the order of the frozen task's.
    pub threads: Vec<ThreadFacts>,
    /// Ids of its user namespace, if that is another than ours.
    pub ids: IdMaps,
}

/// A link of `/proc/PID` to a file, and what it leads to.
#[derive(Debug)]
pub struct PathLink {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub link: Vec<u8>,
    /// `stat(2)` of what it leads to.
    pub stat: libc::stat,
}

impl PathLink {
    fn read(pid: i32, name: &'static str) -> Result<Self, Problem> {
        let path = format!("/proc/{pid}/{name}");
        let link = nix::fcntl::readlink(path.as_str()).map_err(SysError::of("readlink"));
        let link = link.about(|| Object::Path(path.clone().into()))?.into_vec();
        let stat = nix::sys::stat::stat(path.as_str()).map_err(SysError::of("stat"));
        let kind = || Object::Named { kind: name, name: String::from_utf8_lossy(&link).into_owned() };
        let stat = stat.about(kind)?;
        Ok(Self { name, link, stat })
    }
}

/// The links of a task.
#[derive(Debug)]
pub struct Paths {
    /// Its executable.
    pub exe: Arc<PathLink>,
    /// Its working directory.
    pub cwd: Arc<PathLink>,
    /// Its root.
    pub root: Arc<PathLink>,
}

impl Paths {
    fn read(pid: i32, places: Option<&Places>, known: &Remembered) -> Result<Self, Problem> {
        let read = |name| known.path(places, name, || PathLink::read(pid, name));
        Ok(Self { exe: read("exe")?, cwd: read("cwd")?, root: read("root")? })
    }
}

/// A leader that has ended before the other threads of its process: a zombie until they have ended too.
#[derive(Debug)]
pub struct EndedLeader {
    /// Its id in our pid namespace.
    pub pid: i32,
    /// Its id in its own pid namespace.
    pub inside: PidInside,
    /// `/proc/PID/stat`.
    pub stat: Stat,
}

/// What `/proc` says about one thread.
#[derive(Debug)]
struct ThreadFiles {
    stat: Stat,
    status: Status,
    /// Where it could be apart from its process; not looked for in a process with one thread.
    namespaces: Option<ThreadLinks>,
    seen: Option<SeenThread>,
}

impl ThreadFiles {
    /// Reads it; `seen` is what was seen of the threads of its task.
    fn read(place: &Place, ids: &IdMaps, seen: &HashMap<i32, SeenThread>) -> Result<Self, Problem> {
        let Place { pid, tid, is_alone, .. } = *place;
        let mut status = read_single(&format!("/proc/{pid}/task/{tid}/status"), procfs::status::parse)?;
        as_seen_inside(&mut status, ids);
        let stat = read_single(&format!("/proc/{pid}/task/{tid}/stat"), procfs::stat::parse)?;
        // A thread is in the pid and the user namespace of its process in any case.
        let nsproxy = |tid| seen.get(&tid).map(|thread| thread.places.nsproxy);
        let is_with_its_process = is_alone || nsproxy(tid).is_some() && nsproxy(tid) == nsproxy(pid);
        let namespaces = (!is_with_its_process).then(|| ThreadLinks::read(pid, tid));
        Ok(Self { stat, status, namespaces, seen: seen.get(&tid).cloned() })
    }
}

/// What a stopped thread tells its tracer, and only that.
#[derive(Debug)]
struct ThreadState {
    saved: Saved,
    rseq: RseqConfiguration,
    robust_list: (u64, u64),
    sched: libc::sched_attr,
}

impl ThreadState {
    fn read(memory: &Memory, thread: &FrozenThread) -> Result<Self, Problem> {
        let tid = thread.tid;
        let rseq = ptrace::rseq_configuration(tid).while_trying_to("read its rseq registration")?;
        let mut saved = Saved::read(thread.stopped()).while_trying_to("read its registers")?;
        if !regs::is_64_bit(&saved.regs) {
            return Err(Problem::new(TaskRefusal::Compat));
        }
        if let Some(sleep) = thread.sleep {
            // Of a call that was interrupted before, the kernel has forgotten which it was.
            saved.regs.orig_rax = sleep.call as u64;
        }
        abort_rseq(memory, rseq, &mut saved).while_trying_to("look at its rseq critical section")?;
        let robust_list = process::robust_list(tid).while_trying_to("read its robust futex list")?;
        let sched = process::sched_getattr(tid).while_trying_to("read its scheduling attributes")?;
        Ok(Self { saved, rseq, robust_list, sched })
    }
}

impl ThreadFacts {
    fn new(thread: &FrozenThread, files: ThreadFiles, state: ThreadState) -> Result<Self, Problem> {
        let tid = thread.tid;
        let ThreadFiles { stat, status, seen, .. } = files;
        let ThreadState { saved, rseq, robust_list, sched } = state;
        let inside = PidInside::innermost(&status.ns_pid, tid);
        if status.seccomp.unwrap_or(0) != 0 {
            // The agent's system calls are none of the filters' business.
            let step = "suspend its seccomp filters";
            thread.stopped().set_options(libc::PTRACE_O_SUSPEND_SECCOMP).while_trying_to(step)?;
        }
        Ok(Self { tid, inside, stat, status, saved, rseq, robust_list, sleep: thread.sleep, sched, seen })
    }
}

/// Turns the ids of a thread, which are shown as we see them, into those of its user namespace.
fn as_seen_inside(status: &mut Status, ids: &IdMaps) {
    let all = |of: &mut procfs::status::Ids, map: &[id_map::Extent]| {
        for id in [&mut of.real, &mut of.effective, &mut of.saved, &mut of.filesystem] {
            *id = id_map::inside(map, *id);
        }
    };
    all(&mut status.uid, &ids.uids);
    all(&mut status.gid, &ids.gids);
    status.groups.iter_mut().for_each(|id| *id = id_map::inside(&ids.gids, *id));
}

/// Takes a thread that was stopped inside of an rseq critical section out of it, to its abort handler.
///
/// A stop is a preemption, so the kernel would do the same on the way back to user mode. But it would look at the
/// registers the thread has then, which are the agent's, and forget the critical section.
fn abort_rseq(memory: &Memory, rseq: RseqConfiguration, saved: &mut Saved) -> Result<(), SysError> {
    if rseq.rseq_abi_pointer == 0 {
        return Ok(());
    }
    // struct rseq: rseq_cs is at offset 8. struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip.
    let rseq_cs: u64 = memory.read_value(rseq.rseq_abi_pointer.wrapping_add(8))?;
    if rseq_cs == 0 {
        return Ok(());
    }
    let [start, length, abort] = memory.read_value::<[u64; 3]>(rseq_cs.wrapping_add(8))?;
    if saved.regs.rip.wrapping_sub(start) < length {
        saved.regs.rip = abort;
        saved.regs.orig_rax = u64::MAX;
    }
    Ok(())
}

/// What the stopped threads of a task tell.
fn states_of(task: &FrozenTask) -> Result<(Memory, Vec<Result<ThreadState, Problem>>), Problem> {
    let memory = Memory::open(task.first_tid())?;
    let states = task.threads.iter().map(|thread| ThreadState::read(&memory, thread)).collect();
    Ok((memory, states))
}

/// Where `/proc` tells of a thread.
#[derive(Debug, Clone, Copy)]
struct Place {
    pid: i32,
    tid: i32,
    /// It is the only thread that its process has.
    is_alone: bool,
    /// The place of its task among all.
    task: usize,
}

/// Something that `/proc` tells of.
#[derive(Debug)]
enum Source {
    Task(i32),
    Thread(Place),
}

/// What was seen of the threads of a task, by whoever needed it first.
type Threads = OnceLock<HashMap<i32, SeenThread>>;

/// What it says.
#[derive(Debug)]
enum Said {
    Task(Box<Result<TaskFiles, Problem>>),
    Thread(Box<Result<ThreadFiles, Problem>>),
}

impl Source {
    fn read(&self, ids: &IdMaps, reader: &VmFlagsReader, known: &Remembered, threads: &[Threads]) -> Said {
        let none = HashMap::new();
        match self {
            Self::Task(pid) => Said::Task(Box::new(TaskFiles::read(*pid, reader, known))),
            Self::Thread(place) => {
                let seen = threads.get(place.task).filter(|_| !place.is_alone);
                let seen = seen.map_or(&none, |seen| seen.get_or_init(|| reader.threads(place.pid)));
                Said::Thread(Box::new(ThreadFiles::read(place, ids, seen)))
            }
        }
    }
}

/// What `/proc` says about one task.
#[derive(Debug)]
struct TaskFiles {
    pidfd: OwnedFd,
    mapped: Mapped,
    limits: procfs::limits::Limits,
    namespaces: NamespaceLinks,
    auxv: procfs::auxv::Auxv,
    paths: Paths,
    texts: Vec<(&'static str, Result<String, SysError>)>,
}

impl TaskFiles {
    fn read(pid: i32, reader: &VmFlagsReader, known: &Remembered) -> Result<Self, Problem> {
        let pidfd = pidfd::open(pid)?;
        let mapped = reader.mappings(pid, pidfd.as_fd())?;
        let places = mapped.places.as_deref();
        let limits = || read_single(&format!("/proc/{pid}/limits"), procfs::limits::parse);
        let text = |name: &&'static str| (*name, known.text(places, name, || text_of(pid, name)));
        Ok(Self {
            limits: known.limits(places, limits)?,
            namespaces: known.namespaces(places, || Links::read(&pid.to_string())).into(),
            auxv: read_proc(format!("/proc/{pid}/auxv"), procfs::auxv::parse)?,
            paths: Paths::read(pid, places, known)?,
            texts: TASK_KINDS.iter().flat_map(|kind| kind.reads()).map(text).collect(),
            pidfd,
            mapped,
        })
    }
}

impl TaskFacts {
    /// The limit of its descriptor numbers.
    pub fn descriptors(&self) -> procfs::limits::Limit {
        let unlimited = procfs::limits::Limit { soft: u64::MAX, hard: u64::MAX };
        self.limits.get(libc::RLIMIT_NOFILE as usize).copied().unwrap_or(unlimited)
    }

    /// Reads everything; refuses what cannot be looked at. Ids are as the task sees them in its user namespace.
    ///
    /// What `/proc` says is read by all processors, while this thread, the only one that ptrace answers to, reads registers.
    pub(super) fn read_all(
        tasks: &[&FrozenTask],
        ids: &IdMaps,
        reader: &VmFlagsReader,
    ) -> Vec<Result<Self, Problem>> {
        let places = tasks.iter().enumerate().flat_map(|(at, task)| {
            let (pid, is_alone) = (task.first_tid(), task.threads.len() == 1);
            let place = move |tid| Source::Thread(Place { pid, tid, is_alone, task: at });
            task.threads.iter().map(move |thread| place(thread.tid))
        });
        // Mappings take longest.
        let sources: Vec<Source> =
            tasks.iter().map(|task| Source::Task(task.first_tid())).chain(places).collect();
        let known = Remembered::default();
        let threads: Vec<Threads> = tasks.iter().map(|_| Threads::new()).collect();
        let (said, states) = side_by_side::map_while(
            &sources,
            |source| source.read(ids, reader, &known, &threads),
            || tasks.iter().map(|task| states_of(task)).collect::<Vec<_>>(),
        );
        let (mut files, mut threads) = (Vec::new(), Vec::new());
        for said in said {
            match said {
                Said::Task(said) => files.push(*said),
                Said::Thread(said) => threads.push(*said),
            }
        }
        let mut threads = threads.into_iter();
        let read = |((task, files), states): ((&&FrozenTask, Result<TaskFiles, Problem>), _)| {
            let threads = threads.by_ref().take(task.threads.len()).collect();
            Self::new(task, files, threads, states, ids).of_task(&task.name)
        };
        tasks.iter().zip(files).zip(states).map(read).collect()
    }

    fn new(
        task: &FrozenTask,
        files: Result<TaskFiles, Problem>,
        threads: Vec<Result<ThreadFiles, Problem>>,
        states: Result<(Memory, Vec<Result<ThreadState, Problem>>), Problem>,
        ids: &IdMaps,
    ) -> Result<Self, Problem> {
        let pid = task.first_tid();
        let about =
            |tid: i32| move |p: Problem| if tid == pid { p } else { p.object(Object::Thread { tid }) };
        let mut strayed = Vec::new();
        let (memory, states) = states?;
        let threads: Vec<ThreadFacts> = task
            .threads
            .iter()
            .zip(threads.into_iter().zip(states))
            .map(|(thread, (files, state))| {
                let facts = files.and_then(|mut files| {
                    strayed.extend(files.namespaces.take());
                    ThreadFacts::new(thread, files, state?)
                });
                facts.map_err(about(thread.tid))
            })
            .collect::<Result<_, _>>()?;
        let ns_tgid = threads.first().map(|thread| thread.status.ns_tgid.clone()).unwrap_or_default();
        let ended_leader = (pid != task.pid)
            .then(|| read_proc(format!("/proc/{}/stat", task.pid), procfs::stat::parse))
            .transpose()?
            .map(|stat| EndedLeader {
                pid: task.pid,
                inside: PidInside::innermost(&ns_tgid, task.pid),
                stat,
            });
        let TaskFiles { pidfd, mapped, limits, mut namespaces, auxv, paths, texts } = files?;
        for links in &strayed {
            namespaces.compare(links);
        }
        let ids = ids.clone();
        let Mapped { vmas, places, likeness } = mapped;
        Ok(Self {
            pid,
            ended_leader,
            pidfd,
            memory,
            vmas,
            places,
            likeness,
            limits,
            namespaces,
            auxv,
            paths,
            texts,
            threads,
            ids,
        })
    }

    /// What a file under `/proc/PID` says that a kind has asked for ([`TaskKind::READS`]), without space around it.
    ///
    /// [`TaskKind::READS`]: crate::kinds::task::TaskKind::READS
    pub fn text(&self, name: &'static str) -> Result<&str, Problem> {
        let text = self.texts.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_deref());
        let absent = SysError { call: "read(/proc/PID)", errno: nix::errno::Errno::ENOENT };
        let text = text.unwrap_or(Err(&absent)).map(str::trim).map_err(|e| Problem::new(*e));
        text.about(|| Object::Path(format!("/proc/{}/{name}", self.pid).into()))
    }

    /// The thread that stands for the task: its leader, or the first that lives.
    pub fn leader(&self) -> &ThreadFacts {
        self.threads.first().expect("a task without threads is a zombie, and those are not inspected")
    }

    /// Its executable mappings.
    pub fn code(&self) -> Vec<(u64, u64)> {
        let code = self.vmas.iter().filter(|v| v.vma.perms.exec && v.vma.perms.read);
        code.map(|v| (v.vma.start, v.vma.end)).collect()
    }

    /// Where the vdso is mapped.
    pub fn vdso(&self) -> Option<(u64, u64)> {
        self.vmas.iter().find(|v| v.vma.path == b"[vdso]").map(|v| (v.vma.start, v.vma.end))
    }
}

fn text_of(pid: i32, name: &str) -> Result<String, SysError> {
    let text = read_text(&format!("/proc/{pid}/{name}")).map_err(SysError::io("read"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads one file of `/proc`. Its size is not known before it is read, so `fs::read` asks for that in vain, and begins with
/// pieces of 32 bytes.
pub fn read_text(path: &str) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(4096);
    File::open(path)?.take(u64::MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Reads and parses a file of `/proc` whose text the kernel makes at once (`single_open` of fs/seq_file.c): what does not fill
/// the buffer is all of it.
pub fn read_single<T>(path: &str, parse: impl FnOnce(&[u8]) -> Result<T, ParseError>) -> Result<T, Problem> {
    let file = File::open(path).map_err(SysError::io("open")).about(|| Object::Path(path.into()))?;
    read_opened(file, || path.to_owned(), parse)
}

/// The same of a file that was opened; `path` is its name.
pub fn read_opened<T>(
    mut file: File,
    path: impl Fn() -> String,
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, Problem> {
    let mut buffer = [0; 4096];
    let length =
        file.read(&mut buffer).map_err(SysError::io("read")).about(|| Object::Path(path().into()))?;
    match buffer.get(..length) {
        Some(text) if length < buffer.len() => parse(text).about(|| Object::Path(path().into())),
        _ => read_proc(path(), parse),
    }
}

/// Reads `/proc/PID/smaps`, in small pieces.
///
/// The kernel fills a page with what mappings say, and throws away what it found out about one that has no room in it any
/// more; the next call has it walk through all pages of that mapping once again. It adds no further mapping when it has
/// as much as was asked for.
pub fn read_smaps(pid: i32) -> Result<Vec<SmapsVma>, Problem> {
    /// A page, less what is said about a mapping with a name of a thousand bytes.
    const PIECE: u64 = 2300;
    let path = format!("/proc/{pid}/smaps");
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&path)?;
        let mut text = Vec::with_capacity(1 << 16);
        while (&mut file).take(PIECE).read_to_end(&mut text)? > 0 {}
        Ok(text)
    };
    let text = read().map_err(SysError::io("read")).about(|| Object::Path(path.clone().into()))?;
    smaps::parse(&text).about(|| Object::Path(path.clone().into()))
}

/// Reads and parses one file of `/proc`.
pub fn read_proc<T>(path: String, parse: impl FnOnce(&[u8]) -> Result<T, ParseError>) -> Result<T, Problem> {
    let bytes = read_text(&path).map_err(SysError::io("read")).about(|| Object::Path(path.clone().into()))?;
    parse(&bytes).about(|| Object::Path(path.into()))
}
