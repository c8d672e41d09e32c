//! What can be seen of a stopped task from outside, read once.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use super::namespace_links::NamespaceLinks;
use super::vm_flags::VmFlagsReader;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::kinds::TASK_KINDS;
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
    pub inner_tid: i32,
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
    /// Its mappings.
    pub vmas: Vec<SmapsVma>,
    /// Its resource limits.
    pub limits: procfs::limits::Limits,
    /// Its namespaces.
    pub namespaces: NamespaceLinks,
    /// Other files of `/proc/PID`, which kinds need.
    texts: Vec<(&'static str, Result<String, SysError>)>,
    /// Its threads that live, in the order of the frozen task's.
    pub threads: Vec<ThreadFacts>,
    /// Ids of its user namespace, if that is another than ours.
    pub ids: IdMaps,
}

/// A leader that has ended before the other threads of its process: a zombie until they have ended too.
#[derive(Debug)]
pub struct EndedLeader {
    /// Its id in its own pid namespace.
    pub inner_pid: i32,
    /// `/proc/PID/stat`.
    pub stat: Stat,
}

/// What `/proc` says about one thread.
#[derive(Debug)]
struct ThreadFiles {
    stat: Stat,
    status: Status,
}

impl ThreadFiles {
    fn read(pid: i32, tid: i32, ids: &IdMaps) -> Result<Self, Problem> {
        let mut status = read_single(&format!("/proc/{pid}/task/{tid}/status"), procfs::status::parse)?;
        as_seen_inside(&mut status, ids);
        let stat = read_single(&format!("/proc/{pid}/task/{tid}/stat"), procfs::stat::parse)?;
        Ok(Self { stat, status })
    }
}

impl ThreadFacts {
    fn read(memory: &Memory, thread: &FrozenThread, files: ThreadFiles) -> Result<Self, Problem> {
        let tid = thread.tid;
        let stopped = thread.stopped();
        let ThreadFiles { stat, status } = files;
        let inner_tid = status.ns_pid.last().copied().unwrap_or(tid);
        if status.seccomp.unwrap_or(0) != 0 {
            // The agent's system calls are none of the filters' business.
            let step = "suspend its seccomp filters";
            stopped.set_options(libc::PTRACE_O_SUSPEND_SECCOMP).while_trying_to(step)?;
        }
        let rseq = ptrace::rseq_configuration(tid).while_trying_to("read its rseq registration")?;
        let mut saved = Saved::read(stopped).while_trying_to("read its registers")?;
        if !regs::is_64_bit(&saved.regs) {
            return Err(Problem::new(TaskRefusal::Compat));
        }
        if let Some(sleep) = thread.sleep {
            // Of a call that was interrupted before, the kernel has forgotten which it was.
            saved.regs.orig_rax = sleep.call as u64;
        }
        abort_rseq(memory, rseq, &mut saved).while_trying_to("look at its rseq critical section")?;
        Ok(Self {
            tid,
            inner_tid,
            stat,
            status,
            saved,
            rseq,
            robust_list: process::robust_list(tid).while_trying_to("read its robust futex list")?,
            sleep: thread.sleep,
            sched: process::sched_getattr(tid).while_trying_to("read its scheduling attributes")?,
        })
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

/// What `/proc` says about one task.
#[derive(Debug)]
struct TaskFiles {
    vmas: Vec<SmapsVma>,
    limits: procfs::limits::Limits,
    namespaces: NamespaceLinks,
    texts: Vec<(&'static str, Result<String, SysError>)>,
}

impl TaskFiles {
    fn read(pid: i32, reader: &VmFlagsReader) -> Result<Self, Problem> {
        Ok(Self {
            vmas: reader.mappings(pid)?,
            limits: read_single(&format!("/proc/{pid}/limits"), procfs::limits::parse)?,
            namespaces: NamespaceLinks::read(&pid.to_string()),
            texts: TASK_KINDS
                .iter()
                .flat_map(|kind| kind.reads())
                .map(|name| (*name, text_of(pid, name)))
                .collect(),
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
    /// What `/proc` says of all tasks is read side by side: ptrace answers to one thread only.
    pub(super) fn read_all(
        tasks: &[&FrozenTask],
        ids: &IdMaps,
        reader: &VmFlagsReader,
    ) -> Vec<Result<Self, Problem>> {
        let places: Vec<(i32, i32)> = tasks
            .iter()
            .flat_map(|task| task.threads.iter().map(|thread| (task.first_tid(), thread.tid)))
            .collect();
        let mut threads =
            side_by_side::map(&places, |&(pid, tid)| ThreadFiles::read(pid, tid, ids)).into_iter();
        let pids: Vec<i32> = tasks.iter().map(|task| task.first_tid()).collect();
        let files = side_by_side::map(&pids, |&pid| TaskFiles::read(pid, reader));
        let read = |(task, files): (&&FrozenTask, Result<TaskFiles, Problem>)| {
            let threads = threads.by_ref().take(task.threads.len()).collect();
            Self::read(task, files, threads, ids).of_task(&task.name)
        };
        tasks.iter().zip(files).map(read).collect()
    }

    fn read(
        task: &FrozenTask,
        files: Result<TaskFiles, Problem>,
        threads: Vec<Result<ThreadFiles, Problem>>,
        ids: &IdMaps,
    ) -> Result<Self, Problem> {
        let pid = task.first_tid();
        let memory = Memory::open(pid)?;
        let about =
            |tid: i32| move |p: Problem| if tid == pid { p } else { p.object(Object::Thread { tid }) };
        let threads: Vec<ThreadFacts> = task
            .threads
            .iter()
            .zip(threads)
            .map(|(thread, files)| {
                files.and_then(|files| ThreadFacts::read(&memory, thread, files)).map_err(about(thread.tid))
            })
            .collect::<Result<_, _>>()?;
        let inner_pid = threads.first().and_then(|thread| thread.status.ns_tgid.last().copied());
        let ended_leader = (pid != task.pid)
            .then(|| read_proc(format!("/proc/{}/stat", task.pid), procfs::stat::parse))
            .transpose()?
            .map(|stat| EndedLeader { inner_pid: inner_pid.unwrap_or(task.pid), stat });
        let TaskFiles { vmas, limits, namespaces, texts } = files?;
        let (pidfd, ids) = (pidfd::open(pid)?, ids.clone());
        Ok(Self { pid, ended_leader, pidfd, vmas, limits, namespaces, texts, threads, ids })
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
    let mut buffer = [0; 4096];
    let read = File::open(path).and_then(|mut file| file.read(&mut buffer));
    let length = read.map_err(SysError::io("read")).about(|| Object::Path(path.into()))?;
    match buffer.get(..length) {
        Some(text) if length < buffer.len() => parse(text).about(|| Object::Path(path.into())),
        _ => read_proc(path.to_owned(), parse),
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
