//! Filters of system calls (`seccomp(2)`): strict mode, and chains of filter programs, per thread.
//!
//! Programs are read by `PTRACE_SECCOMP_GET_FILTER`, the oldest first, and their flags as far as the kernel tells by
//! `PTRACE_SECCOMP_GET_METADATA`. They do not apply while we trace a thread (`PTRACE_O_SUSPEND_SECCOMP`); so they are
//! installed early, with all privileges, and take effect when we let go.
//!
//! Threads share filters that they inherited, which a later `SECCOMP_FILTER_FLAG_TSYNC` asks for. The kernel does not tell
//! which are shared; those at the beginning that all threads of a process have in common are shared again.

use std::collections::HashMap;

use proto::messages::{CoreEntry, SeccompEntry, SeccompFilter, SeccompMode, TaskCoreEntry};

use super::{Scope, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::{Class, Context as _, Explain, Problem};
use crate::sys::ptrace;
use crate::tracee::batch::{Batch, Word};

/// Seccomp modes and filters.
#[derive(Debug)]
pub struct Seccomp;

/// Why filters cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum SeccompRefusal {
    /// It has a supervisor.
    #[error("its seccomp filter asks a supervisor (SECCOMP_RET_USER_NOTIF), which no image can hold")]
    Supervised,
    /// The image refers to a filter that is not there, or is no program.
    #[error("the image has no seccomp filter {0}, or it is no program")]
    NoSuchFilter(u32),
}

impl Explain for SeccompRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Supervised => {
                Some("run it without the supervisor (SECCOMP_FILTER_FLAG_NEW_LISTENER)".into())
            }
            Self::NoSuchFilter(_) => None,
        }
    }
}

/// Bytes of an instruction (`struct sock_filter` of `include/uapi/linux/filter.h`).
const INSTRUCTION: usize = 8;
/// `BPF_MAXINSNS` of `include/uapi/linux/bpf_common.h`.
const MAX_INSTRUCTIONS: usize = 4096;
/// As many filters as fit the kernel's limit for all programs of a thread (`MAX_INSNS_PER_PATH`, `kernel/seccomp.c`).
const MAX_FILTERS: usize = 32 * 1024;
/// From `include/uapi/linux/seccomp.h`.
const SECCOMP_SET_MODE_FILTER: i32 = 1;
const SECCOMP_FILTER_FLAG_TSYNC: u32 = 1 << 0;
const SECCOMP_FILTER_FLAG_LOG: u32 = 1 << 1;
/// What a filter did to speculation, settings restore for each thread: installing it again must not do more.
const SECCOMP_FILTER_FLAG_SPEC_ALLOW: u32 = 1 << 2;
const SECCOMP_FILTER_FLAG_TSYNC_ESRCH: u32 = 1 << 4;

/// Whether a program has an instruction that returns `SECCOMP_RET_USER_NOTIF`.
fn asks_supervisor(program: &[u8]) -> bool {
    /// `BPF_RET | BPF_K`.
    const RETURN: u16 = 0x06;
    const ACTION: u32 = 0xffff_0000;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    program.as_chunks::<INSTRUCTION>().0.iter().any(|[a, b, _, _, k @ ..]| {
        u16::from_le_bytes([*a, *b]) == RETURN && u32::from_le_bytes(*k) & ACTION == USER_NOTIF
    })
}

/// The mode of a thread in an image, also of those that had it in the task's part.
fn mode(cx: ThreadRestore<'_>) -> SeccompMode {
    mode_of(&cx.core.core)
}

fn mode_of(core: &CoreEntry) -> SeccompMode {
    let thread = core.thread_core.as_ref();
    let old = core.tc.as_ref().map(TaskCoreEntry::old_seccomp_mode);
    match thread.filter(|thread| thread.seccomp_mode.is_some()) {
        Some(thread) => thread.seccomp_mode(),
        None => old.unwrap_or(SeccompMode::Disabled),
    }
}

/// Whether system calls of a thread will be filtered.
pub fn is_filtered(core: &CoreEntry) -> bool {
    mode_of(core) != SeccompMode::Disabled
}

impl TaskKind for Seccomp {
    const NAME: &'static str = "seccomp";
    const NOT_SAVED: &'static [&'static str] =
        &["which threads share a filter beyond those that all of the process have in common"];
    const SCOPE: Scope = Scope::Thread;

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let mode = SeccompMode::try_from(thread.status.seccomp.unwrap_or(0) as i32);
        let mode = mode.unwrap_or(SeccompMode::Disabled);
        if mode == SeccompMode::Disabled {
            return Ok(());
        }
        super::thread(core).seccomp_mode = Some(mode.into());
        if mode == SeccompMode::Filter {
            core.filters = read(thread.tid).while_trying_to("read its seccomp filters")?;
        }
        if core.filters.iter().any(|filter| asks_supervisor(&filter.filter)) {
            return Err(Problem::new(SeccompRefusal::Supervised));
        }
        Ok(())
    }

    fn prepare(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        if cx.tid == cx.pid {
            let flags = if cx.all.len() > 1 {
                SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH
            } else {
                0
            };
            install(cx.core.filters.iter().take(shared(cx)), flags, batch);
        }
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        install(cx.core.filters.iter().skip(shared(cx)), 0, batch);
        if mode(cx) == SeccompMode::Strict {
            let args = args![libc::PR_SET_SECCOMP, SeccompMode::Strict as i32, 0, 0, 0];
            batch.call("prctl(PR_SET_SECCOMP)", libc::SYS_prctl, args);
        }
        Ok(())
    }
}

/// How many filters, from the oldest on, all threads of a process have in common.
fn shared(cx: ThreadRestore<'_>) -> usize {
    let common = |a: &[SeccompFilter], b: &[SeccompFilter]| {
        a.iter().zip(b).take_while(|(a, b)| (&a.filter, a.flags) == (&b.filter, b.flags)).count()
    };
    if cx.leader.filters.is_empty() {
        return 0;
    }
    cx.all.iter().map(|thread| common(&cx.leader.filters, &thread.filters)).min().unwrap_or(0)
}

fn install<'a>(filters: impl Iterator<Item = &'a SeccompFilter>, flags: u32, batch: &mut Batch<'_>) {
    for filter in filters {
        batch.room(1, filter.filter.len() + 64);
        let program = batch.input(filter.filter.as_slice());
        // struct sock_fprog: how many instructions, and where.
        let length = (filter.filter.len() / INSTRUCTION) as u64;
        let program = batch.input_words(&[Word::Value(length), Word::Pointer(program)]);
        let log = filter.flags.unwrap_or(0) & SECCOMP_FILTER_FLAG_LOG;
        let flags = flags | log | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        let args = args![SECCOMP_SET_MODE_FILTER, flags, program];
        batch.call("seccomp(SECCOMP_SET_MODE_FILTER)", libc::SYS_seccomp, args);
    }
}

/// The filters of a stopped thread, the oldest first.
fn read(tid: i32) -> Result<Vec<SeccompFilter>, Problem> {
    let mut filters = Vec::new();
    while let Some(filter) = ptrace::seccomp_filter(tid, filters.len())? {
        let flags = ptrace::seccomp_flags(tid, filters.len())? as u32;
        filters.push(SeccompFilter { filter, prev: None, flags: (flags != 0).then_some(flags) });
    }
    Ok(filters)
}

/// Puts the filters of all threads into one list, each once, and refers each thread to its youngest.
pub fn collect<'a>(threads: impl Iterator<Item = &'a mut ThreadImage>) -> SeccompEntry {
    let mut places = HashMap::<_, u32>::new();
    let mut entry = SeccompEntry::default();
    for thread in threads {
        let mut prev = None;
        for filter in &thread.filters {
            let place = places.entry((prev, filter.filter.clone(), filter.flags)).or_insert_with(|| {
                entry.seccomp_filters.push(SeccompFilter { prev, ..filter.clone() });
                entry.seccomp_filters.len() as u32 - 1
            });
            prev = Some(*place);
        }
        if let (Some(_), Some(core)) = (prev, thread.core.thread_core.as_mut()) {
            core.seccomp_filter = prev;
        }
    }
    entry
}

/// The filters of a thread, the oldest first.
pub fn chain(entry: &SeccompEntry, core: &CoreEntry) -> Result<Vec<SeccompFilter>, SeccompRefusal> {
    if mode_of(core) != SeccompMode::Filter {
        return Ok(Vec::new());
    }
    let own = core.thread_core.as_ref().and_then(|thread| thread.seccomp_filter);
    let old = core.tc.as_ref().and_then(|tc| tc.old_seccomp_filter);
    let mut next = own.or(old);
    let mut chain = Vec::new();
    while let Some(place) = next {
        let filter = entry.seccomp_filters.get(place as usize);
        let is_program = |bytes: &[u8]| {
            !bytes.is_empty()
                && bytes.len().is_multiple_of(INSTRUCTION)
                && bytes.len() / INSTRUCTION <= MAX_INSTRUCTIONS
        };
        let filter = filter.filter(|filter| is_program(&filter.filter) && chain.len() < MAX_FILTERS);
        let filter = filter.ok_or(SeccompRefusal::NoSuchFilter(place))?;
        // A filter is older than those that refer to it, so there is no way back.
        if filter.prev.is_some_and(|prev| prev >= place) {
            return Err(SeccompRefusal::NoSuchFilter(place));
        }
        chain.push(filter.clone());
        next = filter.prev;
    }
    chain.reverse();
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(filters: &[u8]) -> ThreadImage {
        let filter = |byte: &u8| SeccompFilter { filter: vec![*byte; 8], prev: None, flags: None };
        let mut image =
            ThreadImage { filters: filters.iter().map(filter).collect(), ..ThreadImage::default() };
        super::super::thread(&mut image).seccomp_mode = Some(SeccompMode::Filter.into());
        image
    }

    #[test]
    fn chains_come_back_and_share_their_beginning() {
        let mut threads = [thread(&[1, 2]), thread(&[1, 3]), thread(&[1]), thread(&[2])];
        let entry = collect(threads.iter_mut());
        assert_eq!(entry.seccomp_filters.len(), 4);
        for thread in &threads {
            let bytes =
                |filters: &[SeccompFilter]| filters.iter().map(|f| f.filter.clone()).collect::<Vec<_>>();
            assert_eq!(bytes(&chain(&entry, thread).unwrap()), bytes(&thread.filters));
        }
    }

    #[test]
    fn circles_and_holes_are_refused() {
        let mut threads = [thread(&[1, 2])];
        let mut entry = collect(threads.iter_mut());
        entry.seccomp_filters[0].prev = Some(1);
        assert!(chain(&entry, &threads[0]).is_err());
        entry.seccomp_filters[1].prev = Some(7);
        assert!(chain(&entry, &threads[0]).is_err());
        entry.seccomp_filters[1] = SeccompFilter { filter: vec![0; 7], prev: None, flags: None };
        assert!(chain(&entry, &threads[0]).is_err());
    }

    #[test]
    fn supervisors_are_recognized() {
        assert!(asks_supervisor(&[0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0xc0, 0x7f]));
        assert!(!asks_supervisor(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]));
    }
}
