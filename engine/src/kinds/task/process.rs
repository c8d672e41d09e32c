//! Settings of a process that `prctl(2)` and small files under `/proc/PID` give: child subreaper, parent-death signal,
//! membarrier registrations, OOM score adjustment, core dump filter, audit login id.

use std::sync::LazyLock;

use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::procfs::id_map;
use crate::tracee::batch::Batch;

/// Whether orphaned descendants become children of this task.
#[derive(Debug)]
pub struct Subreaper;

/// The signal that a thread gets when its parent ends.
#[derive(Debug)]
pub struct ParentDeath;

/// Registrations for expedited memory barriers.
#[derive(Debug)]
pub struct Membarrier;

/// What the out-of-memory killer adds to the task's score.
#[derive(Debug)]
pub struct OomScore;

impl TaskKind for Subreaper {
    const NAME: &'static str = "child-subreaper";
    const SCOPE: Scope = Scope::Task;
    const DECIDED_BY: Option<&'static [Field]> = Some(&[Field::new(
        &[Step::In("task_struct", "signal"), Step::Behind, Step::In("signal_struct", "is_child_subreaper")],
        4,
    )]);

    fn ask(questions: &mut Questions) {
        let batch = questions.batch();
        let value = batch.output::<u64>();
        batch.call(
            "prctl(PR_GET_CHILD_SUBREAPER)",
            libc::SYS_prctl,
            args![libc::PR_GET_CHILD_SUBREAPER, value],
        );
        questions.then(move |replies, core| {
            super::task(core).child_subreaper = Some(replies.output(value)? as u32 != 0);
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        // Also when it is not one: restoring orphans may have made it one.
        let is_one = i32::from(cx.task()?.child_subreaper.unwrap_or(false));
        let args = args![libc::PR_SET_CHILD_SUBREAPER, is_one];
        batch.call("prctl(PR_SET_CHILD_SUBREAPER)", libc::SYS_prctl, args);
        Ok(())
    }
}

impl TaskKind for ParentDeath {
    const NAME: &'static str = "pdeath-signal";
    const SCOPE: Scope = Scope::Thread;
    const DECIDED_BY: Option<&'static [Field]> =
        Some(&[Field::new(&[Step::In("task_struct", "pdeath_signal")], 4)]);

    fn ask(questions: &mut Questions) {
        let batch = questions.batch();
        let value = batch.output::<u64>();
        batch.call("prctl(PR_GET_PDEATHSIG)", libc::SYS_prctl, args![libc::PR_GET_PDEATHSIG, value]);
        questions.then(move |replies, core| {
            let signal = replies.output(value)? as u32;
            super::thread(core).pdeath_sig = (signal != 0).then_some(signal);
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        // Changing credentials clears it, so this kind comes after them.
        let signal = cx.thread()?.pdeath_sig.unwrap_or(0);
        batch.call("prctl(PR_SET_PDEATHSIG)", libc::SYS_prctl, args![libc::PR_SET_PDEATHSIG, signal]);
        Ok(())
    }
}

/// From `include/uapi/linux/membarrier.h`.
const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 1 << 9;

impl TaskKind for Membarrier {
    const NAME: &'static str = "membarrier";
    const SCOPE: Scope = Scope::Task;
    const DECIDED_BY: Option<&'static [Field]> = Some(&[Field::new(
        &[Step::In("task_struct", "mm"), Step::Behind, Step::In("mm_struct", "membarrier_state")],
        4,
    )]);

    fn ask(questions: &mut Questions) {
        let args = args![MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0];
        let mask = questions.batch().try_call("membarrier", libc::SYS_membarrier, args);
        questions.then(move |replies, core| {
            // Kernels before 6.3 cannot tell.
            let mask = replies.result(mask).unwrap_or(0) as u32;
            super::task(core).membarrier_registration_mask = (mask != 0).then_some(mask);
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let mask = cx.task()?.membarrier_registration_mask.unwrap_or(0);
        for command in (0..32).map(|bit| 1_u32 << bit).filter(|command| mask & command != 0) {
            batch.call("membarrier", libc::SYS_membarrier, args![command, 0, 0]);
        }
        Ok(())
    }
}

impl TaskKind for OomScore {
    const NAME: &'static str = "oom-score";
    const SCOPE: Scope = Scope::Task;
    const READS: &'static [&'static str] = &["oom_score_adj", "loginuid", "coredump_filter"];

    fn look(task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        super::task(core).oom_score_adj = task.text("oom_score_adj")?.parse().ok();
        super::task(core).loginuid = task.text("loginuid").ok().and_then(|id| id.parse().ok());
        let login = &mut super::task(core).loginuid;
        *login = login.map(|id| if id == u32::MAX { id } else { id_map::inside(&task.ids.uids, id) });
        let filter =
            task.text("coredump_filter").ok().and_then(|filter| u32::from_str_radix(filter, 16).ok());
        core.own.coredump_filter = filter;
        core.own.exit_signal = u32::try_from(thread.stat.exit_signal).ok();
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let task = cx.task()?;
        if let Some(score) = task.oom_score_adj.filter(|score| Some(*score) != OURS.oom_score_adj) {
            write_file(cx.pid, "oom_score_adj", &score.to_string())?;
        }
        let filter = cx.leader.own.coredump_filter;
        if let Some(filter) = filter.filter(|filter| Some(*filter) != OURS.coredump_filter) {
            write_file(cx.pid, "coredump_filter", &format!("{filter:#x}"))?;
        }
        if let Some(id) = task.loginuid.filter(|id| *id != u32::MAX) {
            write_own_loginuid(batch, &id.to_string());
        }
        Ok(())
    }
}

/// What files under `/proc/PID` say of us.
struct Ours {
    oom_score_adj: Option<i32>,
    coredump_filter: Option<u32>,
}

/// Every stub has that from us. It is not written again: nobody may lower an OOM score without `CAP_SYS_RESOURCE`.
static OURS: LazyLock<Ours> = LazyLock::new(|| {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    Ours {
        oom_score_adj: read("oom_score_adj").trim().parse().ok(),
        coredump_filter: u32::from_str_radix(read("coredump_filter").trim(), 16).ok(),
    }
});

/// Writes a file under `/proc/PID`.
fn write_file(pid: i32, name: &'static str, text: &str) -> Result<(), Problem> {
    let path = format!("/proc/{pid}/{name}");
    let written = std::fs::write(&path, text).map_err(SysError::io("write"));
    written.about(|| Object::Path(path.into()))
}

/// Has the task write its audit login id, which nobody else may.
fn write_own_loginuid(batch: &mut Batch<'_>, text: &str) {
    let path = batch.input_str(b"/proc/self/loginuid");
    let bytes = batch.input_str(text.as_bytes());
    let step = "write(/proc/self/loginuid)";
    let fd =
        batch.call(step, libc::SYS_openat, args![libc::AT_FDCWD, path, libc::O_WRONLY | libc::O_CLOEXEC]);
    batch.call(step, libc::SYS_write, args![fd, bytes, text.len()]);
    batch.call("close", libc::SYS_close, args![fd]);
}
