//! State of tasks and threads: what a kind sees from outside, what it asks the task itself, and how it comes back.
//!
//! Dump and restore are one batch each, for all kinds together: a kind adds calls, and says what to do with answers.

pub mod creds;
pub mod futex;
pub mod itimers;
pub mod name;
pub mod personality;
pub mod process;
pub mod rlimits;
pub mod rseq;
pub mod sched;
pub mod signals;

use proto::messages::{CoreEntry, StasisThreadEntry, TaskCoreEntry, ThreadCoreEntry};

use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::{Problem, SysError};
use crate::tracee::batch::{Batch, Replies};

/// Whose state it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Of the task as a whole; its leader is asked, and restores it.
    Task,
    /// Of each thread.
    Thread,
}

type Answer = Box<dyn Fn(&Replies, &mut ThreadImage) -> Result<(), SysError>>;

/// The images of one thread: what the format has a place for, which this stands for as a rule, and what is our own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThreadImage {
    /// `core-TID.img`.
    pub core: CoreEntry,
    /// Its entry in `stasis-threads.img`.
    pub own: StasisThreadEntry,
}

impl std::ops::Deref for ThreadImage {
    type Target = CoreEntry;

    fn deref(&self) -> &CoreEntry {
        &self.core
    }
}

impl std::ops::DerefMut for ThreadImage {
    fn deref_mut(&mut self) -> &mut CoreEntry {
        &mut self.core
    }
}

/// Calls for a thread of the target to make, and what to do with the answers.
#[derive(Default)]
pub struct Questions {
    batch: Batch<'static>,
    answers: Vec<Answer>,
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Questions").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl Questions {
    /// What all kinds ask of a leader, or of another thread.
    pub fn of(scopes: &[Scope]) -> Self {
        let mut questions = Self::default();
        for kind in super::TASK_KINDS.iter().filter(|kind| scopes.contains(&kind.scope())) {
            kind.ask(&mut questions);
        }
        questions
    }

    /// The calls.
    pub fn batch(&mut self) -> &mut Batch<'static> {
        &mut self.batch
    }

    /// The calls, for sending them.
    pub fn batch_ref(&self) -> &Batch<'static> {
        &self.batch
    }

    /// Adds what to do with the answers.
    pub fn then(&mut self, answer: impl Fn(&Replies, &mut ThreadImage) -> Result<(), SysError> + 'static) {
        self.answers.push(Box::new(answer));
    }

    /// Puts the answers of one thread into its image.
    pub fn answer(&self, replies: &Replies, core: &mut ThreadImage) -> Result<(), SysError> {
        self.answers.iter().try_for_each(|answer| answer(replies, core))
    }
}

/// A thread that is being restored.
#[derive(Debug, Clone, Copy)]
pub struct ThreadRestore<'a> {
    /// Its image.
    pub core: &'a ThreadImage,
    /// The image of its task's leader.
    pub leader: &'a ThreadImage,
    /// Its id in its own pid namespace.
    pub tid: i32,
    /// Its task's.
    pub pid: i32,
}

impl ThreadRestore<'_> {
    /// The part of the image that is a thread's own.
    pub fn thread(&self) -> Result<&ThreadCoreEntry, Problem> {
        let what = "it has no thread_core";
        self.core.thread_core.as_ref().ok_or_else(|| self.invalid(what))
    }

    /// The part of the leader's image that is the task's.
    pub fn task(&self) -> Result<&TaskCoreEntry, Problem> {
        self.leader.tc.as_ref().ok_or_else(|| self.invalid("it has no task part"))
    }

    /// A problem with the image.
    pub fn invalid(&self, what: &'static str) -> Problem {
        crate::image::invalid(&proto::catalogue::CORE, self.tid as u64, what)
    }
}

/// One kind of state.
pub trait TaskKind: 'static {
    /// What it is called in logs, errors, the zoo and the documentation.
    const NAME: &'static str;
    /// What of it is not saved, for users to know.
    const NOT_SAVED: &'static [&'static str] = &[];
    /// Whose state it is.
    const SCOPE: Scope;

    /// Takes what can be seen from outside; a refusal if it must not be dumped.
    fn look(_task: &TaskFacts, _thread: &ThreadFacts, _core: &mut ThreadImage) -> Result<(), Problem> {
        Ok(())
    }
    /// Asks the thread for the rest.
    fn ask(_questions: &mut Questions) {}
    /// Has the thread set it.
    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem>;
}

/// A [`TaskKind`] as the registry holds it.
pub trait ErasedTaskKind: Sync {
    /// [`TaskKind::NAME`].
    fn name(&self) -> &'static str;
    /// [`TaskKind::NOT_SAVED`].
    fn not_saved(&self) -> &'static [&'static str];
    /// [`TaskKind::SCOPE`].
    fn scope(&self) -> Scope;
    /// [`TaskKind::look`].
    fn look(&self, task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem>;
    /// [`TaskKind::ask`].
    fn ask(&self, questions: &mut Questions);
    /// [`TaskKind::restore`].
    fn restore(&self, cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem>;
}

/// Turns a [`TaskKind`] into an [`ErasedTaskKind`].
#[derive(Debug)]
pub struct Erased<K>(std::marker::PhantomData<fn() -> K>);

/// Gives every [`TaskKind`] the value that the registry lists.
pub trait Erase: TaskKind + Sized {
    /// The kind, for the registry.
    const ERASED: &'static Erased<Self> = &Erased(std::marker::PhantomData);
}

impl<K: TaskKind> Erase for K {}

impl<K: TaskKind> ErasedTaskKind for Erased<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn not_saved(&self) -> &'static [&'static str] {
        K::NOT_SAVED
    }

    fn scope(&self) -> Scope {
        K::SCOPE
    }

    fn look(&self, task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        K::look(task, thread, core)
    }

    fn ask(&self, questions: &mut Questions) {
        K::ask(questions);
    }

    fn restore(&self, cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        K::restore(cx, batch)
    }
}

/// The part of an image that is a thread's own, made if it is not there.
pub fn thread(core: &mut CoreEntry) -> &mut ThreadCoreEntry {
    core.thread_core.get_or_insert_default()
}

/// The part of a leader's image that is the task's, made if it is not there.
pub fn task(core: &mut CoreEntry) -> &mut TaskCoreEntry {
    core.tc.get_or_insert_default()
}
