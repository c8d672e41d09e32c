//! Tasks and threads that need not be asked, since another has answered for them.
//!
//! Most of what only a task itself can tell is decided by what the kernel has of it (`DECIDED_BY` of each kind): tasks of which
//! the kernel has the same tell the same. What that means nobody has to know. So of forks that have gone on in the same way
//! one is asked, and the others never get an agent.

use std::collections::HashMap;

use zerocopy::FromBytes as _;

use super::inspect::TaskFacts;
use super::task::TaskImages;
use super::walk::Field;
use crate::kinds::TASK_KINDS;
use crate::kinds::files::FilesDump;
use crate::kinds::mm::{bounds, extra};
use crate::kinds::task::{ErasedTaskKind, Scope, ThreadImage};
use crate::options::Afterwards;
use crate::tracee::freeze::{FrozenTree, TaskState};

/// What decides the answers of a task or thread that has nothing else to tell, and what need not be asked at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Likeness {
    decides: Box<[u8]>,
    /// Words of each kind that tells some ([`TaskKind::TELLS`]).
    ///
    /// [`TaskKind::TELLS`]: crate::kinds::task::TaskKind::TELLS
    told: Box<[u64]>,
}

impl Likeness {
    /// The place of the first that is like the one in place `at`, if that is another: as far as they were met so far.
    fn first_alike<'l>(&'l self, met: &mut HashMap<&'l [u8], usize>, at: usize) -> Option<usize> {
        let first = *met.entry(&self.decides).or_insert(at);
        (first != at).then_some(first)
    }

    /// Puts what need not be asked into an image.
    pub(super) fn tell(&self, core: &mut ThreadImage) {
        let mut words = self.told.iter().as_slice();
        for kind in telling() {
            let Some((own, rest)) = words.split_at_checked(Field::length_of(kind.tells()) / 8) else {
                return;
            };
            kind.tell(own, core);
            words = rest;
        }
    }
}

fn telling() -> impl Iterator<Item = &'static &'static dyn ErasedTaskKind> {
    TASK_KINDS.iter().filter(|kind| !kind.tells().is_empty())
}

/// What is looked at of each task, or of each thread.
#[derive(Debug)]
pub(super) struct Deciding {
    decides: Vec<Field>,
    tells: Vec<Field>,
    /// What must be zero.
    is_idle: Vec<Field>,
}

impl Deciding {
    /// For what all kinds ask of a task.
    pub(super) fn of_tasks() -> Self {
        let decides = TASK_KINDS.iter().flat_map(|kind| kind.decided_by().unwrap_or_default());
        let is_idle = TASK_KINDS.iter().flat_map(|kind| kind.idle_if_zero().unwrap_or_default());
        let decides = decides.chain(bounds::DECIDED_BY).copied().collect();
        Self { decides, is_idle: is_idle.copied().collect(), ..Self::of_threads() }
    }

    /// For what all kinds ask of a thread that is not the first.
    pub(super) fn of_threads() -> Self {
        let kinds = TASK_KINDS.iter().filter(|kind| kind.scope() == Scope::Thread);
        let decides = kinds.flat_map(|kind| kind.decided_by().unwrap_or_default());
        let tells = telling().flat_map(|kind| kind.tells());
        Self { decides: decides.copied().collect(), tells: tells.copied().collect(), is_idle: Vec::new() }
    }

    /// All fields.
    pub(super) fn fields(&self) -> Vec<Field> {
        [self.decides.as_slice(), &self.tells, &self.is_idle].concat()
    }

    /// Bytes of them.
    pub(super) fn length(&self) -> usize {
        [&self.decides, &self.tells, &self.is_idle].map(|fields| Field::length_of(fields)).iter().sum()
    }

    /// What a task or thread is known by, of which the kernel has this; none if it must be asked.
    pub(super) fn likeness(&self, fields: &[u8]) -> Option<Likeness> {
        let (decides, rest) = fields.split_at_checked(Field::length_of(&self.decides))?;
        let (tells, is_idle) = rest.split_at_checked(Field::length_of(&self.tells))?;
        let told = <[u64]>::ref_from_bytes(tells).ok()?;
        let is_idle = is_idle.iter().all(|byte| *byte == 0);
        is_idle.then(|| Likeness { decides: decides.into(), told: told.into() })
    }
}

/// For each task of a tree, the place of the one that answers for it.
pub(super) fn spokesmen(
    tree: &FrozenTree,
    facts: &[Option<TaskFacts>],
    images: &[TaskImages],
    files: &FilesDump<'_>,
) -> Vec<Option<usize>> {
    if files.options.afterwards == Afterwards::LeaveRunning {
        // Each makes a copy of itself.
        return vec![None; tree.tasks.len()];
    }
    let mut met = HashMap::new();
    let mut has_children = vec![false; tree.tasks.len()];
    for parent in
        tree.tasks.iter().filter(|task| task.state != TaskState::Zombie).filter_map(|task| task.parent)
    {
        if let Some(has) = has_children.get_mut(parent) {
            *has = true;
        }
    }
    let tasks = tree.tasks.iter().zip(facts).zip(images).zip(has_children).enumerate();
    tasks
        .map(|(at, (((task, facts), image), has_children))| {
            let facts = facts.as_ref()?;
            let likeness = facts.likeness.as_ref()?;
            let spokesman = likeness.first_alike(&mut met, at)?;
            // Who has children is asked about them, and of memory that is shared, the policy is not the task's own.
            let is_simple = task.threads.len() == 1 && !has_children && files.unasked(task.pid).is_empty();
            let is_small = !image.has_memory() || super::memory::is_modest(facts);
            (is_simple && is_small && extra::asks_nothing_shared(facts)).then_some(spokesman)
        })
        .collect()
}

/// For each thread of a task, the place of the one that answers for it; the first is always asked, and for itself alone.
pub(super) fn spokesmen_of_threads(facts: &TaskFacts) -> Vec<Option<usize>> {
    let mut met = HashMap::new();
    let threads = facts.threads.iter().enumerate();
    threads
        .map(|(at, thread)| {
            let seen = thread.seen.as_ref().filter(|_| at > 0)?;
            seen.likeness.first_alike(&mut met, at)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::dump::vm_flags::Reader;
    use crate::sys::forked::{Forked, program_break};
    use crate::sys::pidfd;

    fn likeness(reader: &Reader, fork: &Forked) -> Option<Likeness> {
        reader.raw(pidfd::open(fork.pid()).unwrap().as_fd()).unwrap().unwrap().likeness
    }

    /// Everything that a kind asks, or that runs by itself, shows.
    #[test]
    fn who_has_done_something_is_unlike_others() {
        use libc::{SYS_prctl, SYS_setitimer};
        let Ok(reader) = Reader::new() else { return };
        let address = |of: &[u64]| of.as_ptr().expose_provenance() as i64;
        let action = [1_u64, 0, 0, 0];
        let stack = [0x1000_u64, 0, 0x10000];
        let timer = [0_u64, 0, 1000, 0];
        let clock_id = [0_u64];
        let heap = i64::from(4096) + program_break();
        let policy_local = 4;
        let prctl = |what: i32, value: i64| vec![SYS_prctl, i64::from(what), value];
        let calls: Vec<(&str, Vec<i64>)> = vec![
            ("handler", vec![libc::SYS_rt_sigaction, libc::SIGUSR2.into(), address(&action), 0, 8]),
            ("alternate stack", vec![libc::SYS_sigaltstack, address(&stack), 0]),
            ("timer slack", prctl(libc::PR_SET_TIMERSLACK, 123_456)),
            ("securebits", prctl(libc::PR_SET_SECUREBITS, 1)),
            ("subreaper", prctl(libc::PR_SET_CHILD_SUBREAPER, 1)),
            ("death signal", prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1.into())),
            ("dumpable", prctl(libc::PR_SET_DUMPABLE, 0)),
            ("huge pages", prctl(libc::PR_SET_THP_DISABLE, 1)),
            ("time stamp counter", prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV.into())),
            ("memory errors", vec![SYS_prctl, libc::PR_MCE_KILL.into(), 1, 1, 0, 0]),
            ("write or execute", prctl(65, 1)),
            ("merged pages", prctl(67, 1)),
            ("store bypass", vec![SYS_prctl, 53, 0, 4, 0, 0]),
            ("cpuid", vec![libc::SYS_arch_prctl, 0x1012, 0]),
            ("tile data", vec![libc::SYS_arch_prctl, 0x1023, 18]),
            ("barriers", vec![libc::SYS_membarrier, 1 << 4, 0, 0]),
            ("thread id address", vec![libc::SYS_set_tid_address, 0x5000]),
            ("personality", vec![libc::SYS_personality, 0x4_0000]),
            ("policy of memory", vec![libc::SYS_set_mempolicy, policy_local, 0, 0]),
            ("heap", vec![libc::SYS_brk, heap]),
            ("locks what comes", vec![libc::SYS_mlockall, libc::MCL_FUTURE.into()]),
            ("real timer", vec![SYS_setitimer, libc::ITIMER_REAL.into(), address(&timer), 0]),
            ("virtual timer", vec![SYS_setitimer, libc::ITIMER_VIRTUAL.into(), address(&timer), 0]),
            ("profiling timer", vec![SYS_setitimer, libc::ITIMER_PROF.into(), address(&timer), 0]),
            ("posix timer", vec![libc::SYS_timer_create, 1, 0, address(&clock_id)]),
        ];
        // A call that does nothing.
        let plain = [Forked::after(&[libc::SYS_getppid]), Forked::after(&[libc::SYS_getppid])];
        let expected = likeness(&reader, &plain[0]);
        assert!(expected.is_some());
        assert!(expected == likeness(&reader, &plain[1]), "forks are alike");
        let mut unseen = Vec::new();
        for (name, call) in calls {
            let fork = Forked::after(&call);
            if fork.was_refused() {
                println!("{name}: not here");
            } else if likeness(&reader, &fork) == expected {
                unseen.push(name);
            }
        }
        assert_eq!(unseen, [""; 0]);
    }

    /// No kind asks for what nobody said is decided by something.
    #[test]
    fn all_questions_are_decided_by_something() {
        use crate::kinds::task::{Questions, ThreadImage};
        for kind in TASK_KINDS {
            let mut questions = Questions::default();
            kind.ask(&mut questions);
            assert!(questions.batch().is_empty() || kind.decided_by().is_some(), "{}", kind.name());
            let mut questions = Questions::default();
            kind.ask_last(&ThreadImage::default(), &mut questions);
            assert!(questions.batch().is_empty() || kind.idle_if_zero().is_some(), "{}", kind.name());
        }
    }
}
