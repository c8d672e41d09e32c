//! Smaller settings of threads and processes that `prctl(2)` and `arch_prctl(2)` tell: speculation, time stamp counter,
//! CPUID, machine checks, memory that may not become executable, merging of equal pages, service of input and output.
//!
//! Each is left alone where it is as a new process has it, so a kernel or processor that lacks one is no obstacle.

use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore};
use crate::arch;
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::{Class, Explain, Problem};
use crate::sys::ptrace;
use crate::tracee::batch::Batch;

/// Settings of processes and threads.
#[derive(Debug)]
pub struct Settings;

/// State that stands in the way of a dump.
#[derive(Debug, thiserror::Error)]
pub enum SettingRefusal {
    /// System calls go to the program itself.
    #[error("its system calls are dispatched to itself (PR_SET_SYSCALL_USER_DISPATCH)")]
    Dispatch,
    /// Addresses with tags in them.
    #[error("it keeps tags in the upper bits of addresses (linear address masking, ARCH_ENABLE_TAGGED_ADDR)")]
    TaggedAddresses,
    /// A map of ports.
    #[error("it has permission for I/O ports (ioperm)")]
    Ports,
    /// Shadow stacks.
    #[error("it has a shadow stack ({0})")]
    ShadowStack(String),
}

impl Explain for SettingRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Dispatch | Self::TaggedAddresses | Self::Ports => None,
            Self::ShadowStack(_) => Some("start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off".into()),
        }
    }
}

/// From `include/uapi/linux/prctl.h`.
const PR_GET_SPECULATION_CTRL: i32 = 52;
const PR_SET_SPECULATION_CTRL: i32 = 53;
const PR_SET_IO_FLUSHER: i32 = 57;
const PR_SET_MDWE: i32 = 65;
const PR_GET_MDWE: i32 = 66;
const PR_SET_MEMORY_MERGE: i32 = 67;
const PR_GET_MEMORY_MERGE: i32 = 68;
/// Store bypass, indirect branch, flush of the first cache.
const SPECULATIONS: u32 = 3;
const PR_SPEC_PRCTL: i64 = 1 << 0;
const PR_SPEC_ENABLE: i64 = 1 << 1;
const PR_SPEC_DISABLE: i64 = 1 << 2;
/// What the last is by default, and not the others: disabled.
const L1D_FLUSH: u32 = 2;
const PR_TSC_ENABLE: u32 = 1;
const PR_MCE_KILL_DEFAULT: i64 = 2;
/// From `arch/x86/include/uapi/asm/prctl.h`.
const ARCH_GET_CPUID: i32 = 0x1011;
const ARCH_SET_CPUID: i32 = 0x1012;
/// Linux 5.16: which components of the extended state a process may use, and the request for one that it must ask for.
const ARCH_GET_XCOMP_PERM: i32 = 0x1022;
const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
/// `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE` of `include/linux/sched.h`, which together are `PR_IO_FLUSHER`.
const IO_FLUSHER: u32 = 0x0008_0000 | 0x0010_0000;

impl TaskKind for Settings {
    const NAME: &'static str = "settings";
    const NOT_SAVED: &'static [&'static str] = &[
        "syscall user dispatch, on kernels before 6.4",
        "linear address masking, on kernels before 6.4",
        "permission for all I/O ports (iopl)",
        "protection keys that were allocated and are of no mapping",
    ];
    const SCOPE: Scope = Scope::Thread;
    // In this order: speculation; whether the time stamp counter and CPUID can be read, and what else of speculation is a flag
    // of the thread; what is done about errors of memory; what is the address space's; components of the extended state.
    const DECIDED_BY: Option<&'static [Field]> = Some(&[
        Field::new(&[Step::In("task_struct", "atomic_flags")], 8),
        Field::new(&[Step::In("task_struct", "thread_info"), Step::In("thread_info", "flags")], 8),
        Field::new(&[Step::In("task_struct", "flags")], 4),
        Field::new(&[Step::In("task_struct", "mm"), Step::Behind, Step::In("mm_struct", "flags")], 8),
        Field::new(&[Step::Fpu, Step::In("fpu", "perm")], 16),
    ]);

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        if ptrace::dispatches_syscalls(thread.tid) {
            return Err(Problem::new(SettingRefusal::Dispatch));
        }
        if let Some(features) = thread.status.thread_features.as_ref().filter(|text| !text.is_empty()) {
            return Err(Problem::new(SettingRefusal::ShadowStack(features.clone())));
        }
        if thread.status.untag_mask.is_some_and(|mask| mask != u64::MAX) {
            return Err(Problem::new(SettingRefusal::TaggedAddresses));
        }
        if ptrace::has_port_permissions(thread.tid) {
            return Err(Problem::new(SettingRefusal::Ports));
        }
        core.own.io_flusher = (thread.stat.flags & IO_FLUSHER == IO_FLUSHER).then_some(true);
        Ok(())
    }

    fn ask(questions: &mut Questions) {
        let prctl = libc::SYS_prctl;
        let batch = questions.batch();
        let speculation = [0, 1, 2].map(|which| {
            let args = args![PR_GET_SPECULATION_CTRL, which, 0, 0, 0];
            batch.try_call("prctl(PR_GET_SPECULATION_CTRL)", prctl, args)
        });
        let tsc = batch.output::<u64>();
        batch.try_call("prctl(PR_GET_TSC)", prctl, args![libc::PR_GET_TSC, tsc]);
        let get = args![libc::PR_MCE_KILL_GET, 0, 0, 0, 0];
        let mce_kill = batch.try_call("prctl(PR_MCE_KILL_GET)", prctl, get);
        let mdwe = batch.try_call("prctl(PR_GET_MDWE)", prctl, args![PR_GET_MDWE, 0, 0, 0, 0]);
        let merge =
            batch.try_call("prctl(PR_GET_MEMORY_MERGE)", prctl, args![PR_GET_MEMORY_MERGE, 0, 0, 0, 0]);
        let cpuid =
            batch.try_call("arch_prctl(ARCH_GET_CPUID)", libc::SYS_arch_prctl, args![ARCH_GET_CPUID, 0]);
        let components = batch.output::<u64>();
        let args = args![ARCH_GET_XCOMP_PERM, components];
        let permitted = batch.try_call("arch_prctl(ARCH_GET_XCOMP_PERM)", libc::SYS_arch_prctl, args);
        questions.then(move |replies, core| {
            let own = &mut core.own;
            let permitted = replies.result(permitted).and_then(|_| replies.output(components)).unwrap_or(0);
            own.xstate_permission = Some(permitted & arch::ASKED_FOR).filter(|asked| *asked != 0);
            let states = (0..).zip(speculation).map(|(which, call)| {
                let state = replies.result(call).unwrap_or(0);
                let default = if which == L1D_FLUSH { PR_SPEC_DISABLE } else { PR_SPEC_ENABLE };
                let is_set = state & PR_SPEC_PRCTL != 0 && state & !PR_SPEC_PRCTL != default;
                if is_set { (state & !PR_SPEC_PRCTL) as u32 } else { 0 }
            });
            own.speculation = states.collect();
            if own.speculation.iter().all(|state| *state == 0) {
                own.speculation.clear();
            }
            let tsc = replies.output(tsc)? as u32;
            own.tsc = (tsc > PR_TSC_ENABLE).then_some(tsc);
            let set = |call, default| {
                replies.result(call).ok().filter(|value| *value != default).map(|value| value as u32)
            };
            own.mce_kill = set(mce_kill, PR_MCE_KILL_DEFAULT);
            own.mdwe = set(mdwe, 0);
            own.memory_merge = set(merge, 0);
            own.cpuid_faults = replies.result(cpuid).is_ok_and(|allowed| allowed == 0).then_some(true);
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let own = &cx.core.own;
        let prctl = libc::SYS_prctl;
        for (which, state) in (0..SPECULATIONS).zip(&own.speculation).filter(|(_, state)| **state != 0) {
            let args = args![PR_SET_SPECULATION_CTRL, which, *state, 0, 0];
            batch.call("prctl(PR_SET_SPECULATION_CTRL)", prctl, args);
        }
        if let Some(policy) = own.mce_kill {
            let args = args![libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET, policy, 0, 0];
            batch.call("prctl(PR_MCE_KILL)", prctl, args);
        }
        for component in
            (0..64).filter(|bit| own.xstate_permission.unwrap_or(0) & 1 << bit != 0 && cx.tid == cx.pid)
        {
            let args = args![ARCH_REQ_XCOMP_PERM, component];
            batch.call("arch_prctl(ARCH_REQ_XCOMP_PERM)", libc::SYS_arch_prctl, args);
        }
        if own.io_flusher == Some(true) {
            batch.call("prctl(PR_SET_IO_FLUSHER)", prctl, args![PR_SET_IO_FLUSHER, 1, 0, 0, 0]);
        }
        if let Some(merge) = own.memory_merge.filter(|_| cx.tid == cx.pid) {
            batch.call("prctl(PR_SET_MEMORY_MERGE)", prctl, args![PR_SET_MEMORY_MERGE, merge, 0, 0, 0]);
        }
        if let Some(tsc) = own.tsc {
            batch.call("prctl(PR_SET_TSC)", prctl, args![libc::PR_SET_TSC, tsc]);
        }
        if own.cpuid_faults == Some(true) {
            batch.call("arch_prctl(ARCH_SET_CPUID)", libc::SYS_arch_prctl, args![ARCH_SET_CPUID, 0]);
        }
        Ok(())
    }

    fn start(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        // From then on no memory becomes executable, ours neither.
        if let Some(mdwe) = cx.core.own.mdwe.filter(|_| cx.tid == cx.pid) {
            batch.call("prctl(PR_SET_MDWE)", libc::SYS_prctl, args![PR_SET_MDWE, mdwe, 0, 0, 0]);
        }
        Ok(())
    }
}
