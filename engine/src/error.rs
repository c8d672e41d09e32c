//! What can go wrong, and everything a person needs to act on it.
//!
//! Modules have small error enums of their own. On its way up, an error becomes a [`Problem`]: the module's error with
//! the task, the object and the step attached where they are known. An [`Error`] is one failed command: all of its
//! problems (every refusal found in one pass), what was being done, and the state the target was left in.
//! Rendering for people is here; CRIU's log format and RPC error numbers are made from it at the edge.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;

/// Result of anything that ends a command when it fails.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The target holds something that is not dumped or restored (or only with an option); it was not touched.
    Refused,
    /// A permission is missing, the kernel lacks something, a path or disk is not usable.
    Environment,
    /// Something failed after the target was touched; the message says in which state it is.
    Failed,
    /// Our own fault.
    Bug,
}

impl Class {
    /// The process exit code: 3 refused, 4 environment, 5 failed midway, 6 bug (2 is a wrong command line).
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Refused => 3,
            Self::Environment => 4,
            Self::Failed => 5,
            Self::Bug => 6,
        }
    }
}

/// A system call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {} ({errno:?})", errno.desc())]
pub struct SysError {
    /// The call as a manual page names it, with its operation: `ptrace(PTRACE_SEIZE)`.
    pub call: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

impl SysError {
    /// A closure for `map_err` that names the call.
    pub fn of(call: &'static str) -> impl Fn(Errno) -> Self + Copy {
        move |errno| Self { call, errno }
    }

    /// Takes the calling thread's `errno`.
    pub fn last(call: &'static str) -> Self {
        Self { call, errno: Errno::last() }
    }

    /// From an I/O error of the standard library; `EIO` where it carries no number.
    pub fn io(call: &'static str) -> impl Fn(std::io::Error) -> Self + Copy {
        move |e| Self { call, errno: Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)) }
    }
}

/// A task, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskName {
    /// Its pid in our own pid namespace.
    pub host_pid: i32,
    /// Its pid in its innermost pid namespace, where that differs.
    pub inner_pid: Option<i32>,
    /// Its command name (`/proc/PID/comm`).
    pub comm: String,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.host_pid, self.comm.escape_debug())?;
        match self.inner_pid {
            Some(pid) => write!(f, ", pid {pid} inside"),
            None => Ok(()),
        }
    }
}

/// What in the task (or outside of it) a problem is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A descriptor, and what `/proc/PID/fd/N` points to.
    Fd { fd: i32, link: String },
    /// A mapping.
    Vma { start: u64, end: u64, name: String },
    /// A thread other than the leader.
    Thread { tid: i32 },
    /// A file or directory.
    Path(PathBuf),
    /// An image file, by its name in the image directory.
    Image(String),
    /// Anything else, by kind and name: `("namespace", "net:[4026531840]")`.
    Named { kind: &'static str, name: String },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fd { fd, link } => write!(f, "fd {fd}: {}", link.escape_debug()),
            Self::Vma { start, end, name } if name.is_empty() => write!(f, "mapping {start:x}-{end:x}"),
            Self::Vma { start, end, name } => write!(f, "mapping {start:x}-{end:x} {}", name.escape_debug()),
            Self::Thread { tid } => write!(f, "thread {tid}"),
            Self::Path(path) => write!(f, "{}", path.display().to_string().escape_debug()),
            Self::Image(name) => write!(f, "image {}", name.escape_debug()),
            Self::Named { kind, name } => write!(f, "{kind} {}", name.escape_debug()),
        }
    }
}

/// An error of a module, which knows what a user can do about it.
pub trait Explain: std::error::Error + Send + Sync + 'static {
    /// Whose fault it is.
    fn class(&self) -> Class;
    /// What to do next, as an imperative sentence without a full stop; none where nothing sensible can be said.
    fn help(&self) -> Option<String> {
        None
    }
}

impl Explain for SysError {
    fn class(&self) -> Class {
        match self.errno {
            Errno::EPERM
            | Errno::EACCES
            | Errno::ENOSPC
            | Errno::EROFS
            | Errno::EDQUOT
            | Errno::ENOMEM
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOSYS => Class::Environment,
            _ => Class::Failed,
        }
    }

    fn help(&self) -> Option<String> {
        let text = match self.errno {
            Errno::EPERM | Errno::EACCES => {
                "run as root, or with CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE"
            }
            Errno::ENOSPC | Errno::EDQUOT => "free some space, or choose another images directory with -D",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// One thing that stands in the way, with everything known about where.
#[derive(Debug)]
pub struct Problem {
    /// Which task.
    pub task: Option<TaskName>,
    /// Which object.
    pub object: Option<Object>,
    /// Which step, so that it fits after "failed to": `read its memory map`.
    pub step: Option<&'static str>,
    /// What happened.
    pub cause: Box<dyn Explain>,
}

impl Problem {
    /// A problem about which only the cause is known so far.
    pub fn new(cause: impl Explain) -> Self {
        Self { task: None, object: None, step: None, cause: Box::new(cause) }
    }

    /// Names the task, unless somebody who knew better already did.
    #[must_use]
    pub fn task(mut self, task: &TaskName) -> Self {
        self.task.get_or_insert_with(|| task.clone());
        self
    }

    /// Names the object, unless somebody who knew better already did.
    #[must_use]
    pub fn object(mut self, object: Object) -> Self {
        self.object.get_or_insert(object);
        self
    }

    /// Names the step, unless somebody who knew better already did.
    #[must_use]
    pub fn step(mut self, step: &'static str) -> Self {
        self.step.get_or_insert(step);
        self
    }
}

impl<E: Explain> From<E> for Problem {
    fn from(cause: E) -> Self {
        Self::new(cause)
    }
}

/// Attaches task, object and step to the error of a result.
pub trait Context<T> {
    /// Names the task.
    fn of_task(self, task: &TaskName) -> Result<T, Problem>;
    /// Names the object.
    fn about(self, object: impl FnOnce() -> Object) -> Result<T, Problem>;
    /// Names the step.
    fn while_trying_to(self, step: &'static str) -> Result<T, Problem>;
}

impl<T, E: Into<Problem>> Context<T> for Result<T, E> {
    fn of_task(self, task: &TaskName) -> Result<T, Problem> {
        self.map_err(|e| e.into().task(task))
    }

    fn about(self, object: impl FnOnce() -> Object) -> Result<T, Problem> {
        self.map_err(|e| e.into().object(object()))
    }

    fn while_trying_to(self, step: &'static str) -> Result<T, Problem> {
        self.map_err(|e| e.into().step(step))
    }
}

/// What a command was about to do, as its headline says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Dump,
    Restore,
    Plan,
    Check,
    Verify,
    Cleanup,
    Cpuinfo,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Plan => "plan a dump of",
            Self::Check => "check",
            Self::Verify => "verify",
            Self::Cleanup => "clean up",
            Self::Cpuinfo => "answer for the processor in",
        })
    }
}

/// The state in which the target was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Nothing was done to it.
    Untouched,
    /// It was frozen for a while and runs on as it was.
    Running,
    /// Its root ended meanwhile, which was not our doing.
    Gone,
    /// Its images are complete, but not all of it could be killed.
    PartlyKilled,
    /// The dump is complete, and the tree is as it was to be afterwards.
    Dumped,
    /// A restore was undone: no task of it is left.
    NothingRestored,
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "the process tree was not touched",
            Self::Running => "the process tree was left running, unchanged",
            Self::Gone => "it ended meanwhile, and not by this command; no images are left",
            Self::PartlyKilled => "the images are complete, but some tasks could not be killed",
            Self::Dumped => "the images are complete, and the process tree is as it was to be after the dump",
            Self::NothingRestored => "nothing was restored, and nothing was left behind",
        })
    }
}

/// Why a command failed.
#[derive(Debug)]
#[expect(
    clippy::error_impl_error,
    reason = "it is the one error of the library; its users read `engine::error::Error`"
)]
pub struct Error {
    /// What was to be done.
    pub action: Action,
    /// The root of the tree, or the image directory, as the headline names it.
    pub target: String,
    /// Everything that stands in the way; never empty.
    pub problems: Vec<Problem>,
    /// How the target was left.
    pub state: TargetState,
}

impl Error {
    /// The gravest class among the problems.
    pub fn class(&self) -> Class {
        self.problems.iter().map(|p| p.cause.class()).max().unwrap_or(Class::Bug)
    }

    /// The process exit code.
    pub fn exit_code(&self) -> u8 {
        self.class().exit_code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.action, self.target)?;
        for (i, problem) in self.problems.iter().enumerate() {
            let previous = i.checked_sub(1).and_then(|i| self.problems.get(i));
            write_problem(f, problem, previous)?;
        }
        write!(f, "\n  {}", self.state)
    }
}

/// Writes one problem; a task named on the line above is not named again, nor is a help text repeated.
fn write_problem(f: &mut fmt::Formatter<'_>, problem: &Problem, previous: Option<&Problem>) -> fmt::Result {
    let Problem { task, object, step, cause } = problem;
    if let Some(task) = task
        && previous.and_then(|p| p.task.as_ref()) != Some(task)
    {
        write!(f, "\n  {task}")?;
    }
    f.write_str("\n    ")?;
    if let Some(object) = object {
        write!(f, "{object}: ")?;
    }
    if let Some(step) = step {
        write!(f, "failed to {step}: ")?;
    }
    write!(f, "{cause}")?;
    let mut source = cause.source();
    while let Some(error) = source {
        write!(f, ": {error}")?;
        source = error.source();
    }
    let help = cause.help();
    if help != previous.and_then(|p| p.cause.help())
        && let Some(help) = help
    {
        write!(f, "\n      help: {help}")?;
    }
    if cause.class() == Class::Bug {
        f.write_str("\n      this is a bug of ours: please report it, with the log")?;
    }
    Ok(())
}

impl std::error::Error for Error {}
