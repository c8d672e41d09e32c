//! What an address space is besides its mappings: where code, data, heap, stack, arguments and environment lie, the
//! auxiliary vector, the executable, and a few switches. Together they are `mm_entry`.
//!
//! Seen in `/proc/PID/stat`, `auxv` and `exe`; the end of the heap and the switches only the task knows. Set by
//! `prctl(PR_SET_MM, PR_SET_MM_MAP)`, which needs no `CAP_SYS_RESOURCE`.

use std::os::fd::BorrowedFd;

use proto::messages::MmEntry;

use crate::args;
use crate::dump::inspect::{PathLink, TaskFacts};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::kinds::files::FilesDump;
use crate::kinds::files::name::Seen;
use crate::kinds::task::{Field, Step};
use crate::tracee::batch::{Batch, CallId, Replies, Word};

/// From `include/uapi/linux/prctl.h`.
const PR_SET_MM_MAP: i32 = 14;

/// What the kernel has that decides what the task answers.
pub const DECIDED_BY: &[Field] = &[
    Field::new(&[Step::In("task_struct", "mm"), Step::Behind, Step::In("mm_struct", "brk")], 8),
    Field::new(&[Step::In("task_struct", "mm"), Step::Behind, Step::In("mm_struct", "flags")], 8),
];

/// Takes what can be seen from outside.
pub fn look(task: &TaskFacts, files: &mut FilesDump<'_>) -> Result<MmEntry, Problem> {
    let stat = &task.leader().stat;
    Ok(MmEntry {
        mm_start_code: stat.start_code,
        mm_end_code: stat.end_code,
        mm_start_data: stat.start_data,
        mm_end_data: stat.end_data,
        mm_start_stack: stat.start_stack,
        mm_start_brk: stat.start_brk,
        mm_brk: 0,
        mm_arg_start: stat.arg_start,
        mm_arg_end: stat.arg_end,
        mm_env_start: stat.env_start,
        mm_env_end: stat.env_end,
        exe_file_id: path_id(task.pid, &task.paths.exe, files)?,
        mm_saved_auxv: trimmed(task.auxv.words()),
        ..MmEntry::default()
    })
}

/// The vector without the zeros that fill its place in the kernel.
fn trimmed(words: &[u64]) -> Vec<u64> {
    let used = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
    words.get(..used.next_multiple_of(2).min(words.len())).unwrap_or(words).to_vec()
}

/// The id of the file that a link of `/proc/PID` (`exe`, `cwd`, `root`) leads to.
pub fn path_id(pid: i32, path: &PathLink, files: &mut FilesDump<'_>) -> Result<u32, Problem> {
    let PathLink { name, link, stat } = path;
    let reach = format!("/proc/{pid}/{name}");
    let about = || Object::Named { kind: name, name: String::from_utf8_lossy(link).into_owned() };
    files.add_path(&Seen { link, stat, reach, leads: false, position: 0 }, 0).about(about)
}

/// Calls that ask the task for the rest.
#[derive(Debug)]
pub struct Questions {
    brk: CallId,
    dumpable: CallId,
    thp_disabled: CallId,
}

impl Questions {
    /// Adds the calls.
    pub fn ask(batch: &mut Batch<'_>) -> Self {
        let prctl = libc::SYS_prctl;
        Self {
            brk: batch.call("brk", libc::SYS_brk, args![0]),
            dumpable: batch.call("prctl(PR_GET_DUMPABLE)", prctl, args![libc::PR_GET_DUMPABLE]),
            thp_disabled: batch.call(
                "prctl(PR_GET_THP_DISABLE)",
                prctl,
                args![libc::PR_GET_THP_DISABLE, 0, 0, 0, 0],
            ),
        }
    }

    /// Takes the answers.
    pub fn answer(&self, replies: &Replies, mm: &mut MmEntry) -> Result<(), SysError> {
        mm.mm_brk = replies.result(self.brk)? as u64;
        mm.dumpable = Some(replies.result(self.dumpable)? as i32);
        mm.thp_disabled = Some(replies.result(self.thp_disabled)? != 0);
        Ok(())
    }
}

/// Adds the calls that set it, when everything is mapped. `exe_number` is a descriptor number that the task does not use.
pub fn restore<'fd>(mm: &MmEntry, exe: BorrowedFd<'fd>, exe_number: i32, batch: &mut Batch<'fd>) {
    let auxv = batch.input(mm.mm_saved_auxv.as_slice());
    let fd = batch.fd(exe);
    let first = [
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
    ];
    // struct prctl_mm_map ends with the vector's address and size, and the executable's descriptor.
    let size = (mm.mm_saved_auxv.len() * 8) as u64;
    let last = [Word::Pointer(auxv), Word::Value(size | (exe_number as u64) << 32)];
    let map: Vec<Word> = first.into_iter().map(Word::Value).chain(last).collect();
    let map = batch.input_words(&map);
    batch.call("dup3", libc::SYS_dup3, args![fd, exe_number, libc::O_CLOEXEC]);
    batch.call(
        "prctl(PR_SET_MM_MAP)",
        libc::SYS_prctl,
        args![libc::PR_SET_MM, PR_SET_MM_MAP, map, 13 * 8, 0],
    );
    batch.call("close", libc::SYS_close, args![exe_number]);
    batch.call("close", libc::SYS_close, args![fd]);
    if mm.thp_disabled.unwrap_or(false) {
        let args = args![libc::PR_SET_THP_DISABLE, 1, 0, 0, 0];
        batch.call("prctl(PR_SET_THP_DISABLE)", libc::SYS_prctl, args);
    }
}

/// Adds the calls that must come after the credentials, since changing those changes this.
pub fn restore_dumpable(mm: &MmEntry, batch: &mut Batch<'_>) {
    // 2 (SUID_DUMP_ROOT) is what a change of credentials leaves behind; it cannot be asked for.
    if let Some(dumpable @ 0..=1) = mm.dumpable {
        batch.call("prctl(PR_SET_DUMPABLE)", libc::SYS_prctl, args![libc::PR_SET_DUMPABLE, dumpable]);
    }
}
