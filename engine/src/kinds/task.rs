//! State of tasks and threads: what a kind sees from outside, what it asks the task itself, and how it comes back.
//!
//! Dump and restore are one batch each, for all kinds together: a kind adds calls, and says what to do with answers.

pub mod creds;
pub mod futex;
pub mod itimers;
pub mod memory_policy;
pub mod name;
pub mod personality;
pub mod posix_timers;
pub mod process;
pub mod rlimits;
pub mod rseq;
pub mod sched;
pub mod seccomp;
pub mod settings;
pub mod signals;
pub mod sleep;
pub mod timer_arming;

use proto::messages::{CoreEntry, SeccompFilter, StasisThreadEntry, TaskCoreEntry, ThreadCoreEntry};

use crate::dump::inspect::{TaskFacts, ThreadFacts};
pub use crate::dump::walk::{Field, Step};
use crate::error::Problem;
use crate::pid_spaces::PidInside;
use crate::tracee::batch::{Batch, Replies};

/// Whose state it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Of the task as a whole; its leader is asked, and restores it.
    Task,
    /// Of each thread.
    Thread,
}

type Answer = Box<dyn Fn(&Replies, &mut ThreadImage) -> Result<(), Problem>>;

/// The images of one thread: what the format has a place for, which this stands for as a rule, and what is our own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThreadImage {
    /// `core-TID.img`.
    pub core: CoreEntry,
    /// Its entry in `stasis-threads.img`.
    pub own: StasisThreadEntry,
    /// Its seccomp filters, the oldest first, which `seccomp.img` has for all threads together.
    pub filters: Vec<SeccompFilter>,
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
    /// What did not fit into the batch, and comes before it.
    earlier: Vec<Self>,
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

    /// What kinds ask thread `tid` of a task alone.
    pub fn alone(leader: &ThreadImage, tid: i32) -> Self {
        let mut questions = Self::default();
        for kind in super::TASK_KINDS {
            kind.ask_alone(leader, tid, &mut questions);
        }
        questions
    }

    /// Adds what kinds ask the leader of a task last of all.
    pub fn ask_last(&mut self, leader: &ThreadImage) {
        for kind in super::TASK_KINDS {
            kind.ask_last(leader, self);
        }
    }

    /// Makes room for `calls` more calls with `bytes` of data: in another batch, if need be.
    pub fn room(&mut self, calls: usize, bytes: usize) {
        if self.batch.is_nearly_full(calls, bytes) {
            let mut earlier = std::mem::take(&mut self.earlier);
            earlier.push(std::mem::take(self));
            self.earlier = earlier;
        }
    }

    /// What is asked in one batch each, in order.
    pub fn into_parts(mut self) -> Vec<Self> {
        let mut parts = std::mem::take(&mut self.earlier);
        parts.push(self);
        parts.retain(|part| !part.batch.is_empty());
        parts
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
    pub fn then(&mut self, answer: impl Fn(&Replies, &mut ThreadImage) -> Result<(), Problem> + 'static) {
        self.answers.push(Box::new(answer));
    }

    /// Puts the answers of one thread into its image.
    pub fn answer(&self, replies: &Replies, core: &mut ThreadImage) -> Result<(), Problem> {
        self.answers.iter().try_for_each(|answer| answer(replies, core))
    }
}

/// How a task comes into a user namespace below that of the root (`restore/user_spaces.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserSpaceEntry {
    /// Not at all: it stays in that of the root.
    Stays,
    /// With its credentials, by this descriptor.
    By(i32),
    /// It has its ids, and is there already.
    Done,
}

/// A thread that is being restored.
#[derive(Debug, Clone, Copy)]
pub struct ThreadRestore<'a> {
    /// Its image.
    pub core: &'a ThreadImage,
    /// The image of its task's leader.
    pub leader: &'a ThreadImage,
    /// The images of all threads of its task.
    pub all: &'a [&'a ThreadImage],
    /// Its id.
    pub tid: i32,
    /// Its task's.
    pub pid: i32,
    /// How it comes into its user namespace.
    pub user_space: UserSpaceEntry,
    /// What it has had since its birth, if that was in one below that of the root.
    pub born_below: Option<&'a creds::BornBelow>,
}

impl ThreadRestore<'_> {
    /// How the task itself numbers one of its threads.
    pub fn inside(&self, tid: i32) -> PidInside {
        let thread = self.all.iter().find(|image| image.own.tid == tid.cast_unsigned());
        PidInside::of(tid, thread.and_then(|image| image.own.pid_space))
    }

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
    /// Files under `/proc/PID` that [`TaskKind::look`] needs of a leader ([`TaskFacts::text`]); those of all tasks are read
    /// side by side.
    const READS: &'static [&'static str] = &[];

    /// What the kernel has that decides the answers to [`TaskKind::ask`], whoever is asked, beside what [`TaskKind::tell`] tells;
    /// none if it asks for more than that.
    const DECIDED_BY: Option<&'static [Field]> = None;
    /// What the kernel has that is an answer as it is, and differs from one thread to the next.
    const TELLS: &'static [Field] = &[];
    /// What the kernel has that is all zero if there is nothing to ask for in [`TaskKind::ask_last`], and everything is as a new
    /// image has it; none if that does not show.
    const IDLE_IF_ZERO: Option<&'static [Field]> = None;

    /// Takes what can be seen from outside; a refusal if it must not be dumped.
    fn look(_task: &TaskFacts, _thread: &ThreadFacts, _core: &mut ThreadImage) -> Result<(), Problem> {
        Ok(())
    }
    /// Takes the words of [`TaskKind::TELLS`] of a thread that is not asked.
    fn tell(_words: &[u64], _core: &mut ThreadImage) {}
    /// Asks the thread for the rest.
    fn ask(_questions: &mut Questions) {}
    /// Asks thread `tid`, while the others are stopped, about what was found in the leader's image so far; what it answers
    /// goes there, too.
    fn ask_alone(_leader: &ThreadImage, _tid: i32, _questions: &mut Questions) {}
    /// Takes from outside what changes by itself while the task is stopped: last of all (`dump/settle.rs`).
    /// Only if it `has_pending` signals the thread is stopped.
    fn look_last(
        _task: &TaskFacts,
        _thread: &ThreadFacts,
        _has_pending: bool,
        _core: &mut ThreadImage,
    ) -> Result<(), Problem> {
        Ok(())
    }
    /// Asks the leader for what changes by itself while the task is stopped; `leader` is its image so far.
    fn ask_last(_leader: &ThreadImage, _questions: &mut Questions) {}
    /// Has the thread make what other threads refer to: the leader first, and before any thread restores anything.
    fn prepare(_cx: ThreadRestore<'_>, _batch: &mut Batch<'_>) -> Result<(), Problem> {
        Ok(())
    }
    /// Has the thread set it.
    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem>;
    /// Has the thread start what runs by itself from then on: when all tasks have everything else.
    fn start(_cx: ThreadRestore<'_>, _batch: &mut Batch<'_>) -> Result<(), Problem> {
        Ok(())
    }
}

/// A moment of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// [`TaskKind::prepare`].
    Prepare,
    /// [`TaskKind::restore`].
    Restore,
    /// [`TaskKind::start`].
    Start,
}

/// A [`TaskKind`] as the registry holds it.
pub trait ErasedTaskKind: Sync {
    /// [`TaskKind::NAME`].
    fn name(&self) -> &'static str;
    /// [`TaskKind::NOT_SAVED`].
    fn not_saved(&self) -> &'static [&'static str];
    /// [`TaskKind::SCOPE`].
    fn scope(&self) -> Scope;
    /// [`TaskKind::READS`].
    fn reads(&self) -> &'static [&'static str];
    /// [`TaskKind::DECIDED_BY`].
    fn decided_by(&self) -> Option<&'static [Field]>;
    /// [`TaskKind::TELLS`].
    fn tells(&self) -> &'static [Field];
    /// [`TaskKind::tell`].
    fn tell(&self, words: &[u64], core: &mut ThreadImage);
    /// [`TaskKind::IDLE_IF_ZERO`].
    fn idle_if_zero(&self) -> Option<&'static [Field]>;
    /// [`TaskKind::look`].
    fn look(&self, task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem>;
    /// [`TaskKind::ask`].
    fn ask(&self, questions: &mut Questions);
    /// [`TaskKind::ask_alone`].
    fn ask_alone(&self, leader: &ThreadImage, tid: i32, questions: &mut Questions);
    /// [`TaskKind::look_last`].
    fn look_last(
        &self,
        task: &TaskFacts,
        thread: &ThreadFacts,
        has_pending: bool,
        core: &mut ThreadImage,
    ) -> Result<(), Problem>;
    /// [`TaskKind::ask_last`].
    fn ask_last(&self, leader: &ThreadImage, questions: &mut Questions);
    /// [`TaskKind::prepare`], [`TaskKind::restore`] or [`TaskKind::start`].
    fn restore(&self, moment: Moment, cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem>;
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

    fn reads(&self) -> &'static [&'static str] {
        K::READS
    }

    fn decided_by(&self) -> Option<&'static [Field]> {
        K::DECIDED_BY
    }

    fn tells(&self) -> &'static [Field] {
        K::TELLS
    }

    fn tell(&self, words: &[u64], core: &mut ThreadImage) {
        K::tell(words, core);
    }

    fn idle_if_zero(&self) -> Option<&'static [Field]> {
        K::IDLE_IF_ZERO
    }

    fn look(&self, task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        K::look(task, thread, core)
    }

    fn ask(&self, questions: &mut Questions) {
        K::ask(questions);
    }

    fn ask_alone(&self, leader: &ThreadImage, tid: i32, questions: &mut Questions) {
        K::ask_alone(leader, tid, questions);
    }

    fn look_last(
        &self,
        task: &TaskFacts,
        thread: &ThreadFacts,
        has_pending: bool,
        core: &mut ThreadImage,
    ) -> Result<(), Problem> {
        K::look_last(task, thread, has_pending, core)
    }

    fn ask_last(&self, leader: &ThreadImage, questions: &mut Questions) {
        K::ask_last(leader, questions);
    }

    fn restore(&self, moment: Moment, cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        match moment {
            Moment::Prepare => K::prepare(cx, batch),
            Moment::Restore => K::restore(cx, batch),
            Moment::Start => K::start(cx, batch),
        }
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
