//! The page that the kernel maps in a process for its breakpoints in programs (`[uprobes]`, `[uprobes-trampoline]`).
//!
//! The kernel runs there what a breakpoint stands for, and maps it again when the next one is met. The breakpoint
//! itself is a byte in a private copy of a page of code; a page that differs from its file by that alone is left to the
//! file, in which the kernel sets the breakpoint again as long as somebody wants it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use proto::messages::VmaEntry;

use super::pages::{PAGE, Run};
use super::{Contents, MappingKind, status};
use crate::error::{Problem, SysError};
use crate::kinds::files::{FilesDump, FilesRestore};
use crate::procfs::smaps::SmapsVma;
use crate::tracee::batch::Batch;
use crate::tracee::memory::Memory;

/// `UPROBE_SWBP_INSN` of `arch/x86/include/asm/uprobes.h`.
const BREAKPOINT: u8 = 0xcc;

/// What the kernel maps for its breakpoints.
#[derive(Debug)]
pub struct Uprobes;

impl MappingKind for Uprobes {
    const NAME: &'static str = "uprobes";
    const NOT_SAVED: &'static [&'static str] = &[
        "returns that are watched (uretprobes), of functions that are under way",
        "that a breakpoint became a call (Linux 6.18), where the probe is gone at the restore",
    ];

    fn claims(vma: &SmapsVma) -> bool {
        is_uprobes(vma)
    }

    fn owns(vma: &VmaEntry) -> bool {
        vma.status & status::UPROBES != 0
    }

    fn contents(_vma: &SmapsVma) -> Contents {
        Contents::None
    }

    fn dump(
        _cx: &mut FilesDump<'_>,
        _pid: i32,
        _vma: &SmapsVma,
        entry: &mut VmaEntry,
    ) -> Result<(), Problem> {
        entry.status = status::REGULAR | status::UPROBES;
        entry.madv = None;
        entry.pgoff = 0;
        Ok(())
    }

    fn restore<'fd>(
        _cx: &'fd FilesRestore<'_>,
        _vma: &VmaEntry,
        _prot: u32,
        _batch: &mut Batch<'fd>,
    ) -> Result<(), Problem> {
        Ok(())
    }
}

fn is_uprobes(vma: &SmapsVma) -> bool {
    vma.vma.path.starts_with(b"[uprobes")
}

/// Mappings of code in which the kernel may have set breakpoints: none in most tasks.
pub fn with_breakpoints(vmas: &[SmapsVma]) -> Vec<SmapsVma> {
    let is_code = |vma: &&SmapsVma| {
        let perms = vma.vma.perms;
        vma.vma.inode != 0 && perms.exec && !perms.write && !perms.shared
    };
    if vmas.iter().any(is_uprobes) { vmas.iter().filter(is_code).cloned().collect() } else { Vec::new() }
}

/// Takes pages of code out of those that a process owns that differ from their files by breakpoints only.
pub fn leave_breakpoints(runs: Vec<Run>, pid: i32, code: &[SmapsVma]) -> Result<Vec<Run>, SysError> {
    let mut kept = runs;
    for vma in code {
        let memory = Memory::open(pid)?;
        let (start, end) = (vma.vma.start, vma.vma.end);
        let file = File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
        let file = file.map_err(SysError::io("open(/proc/PID/map_files)"))?;
        let mut rest = Vec::new();
        for run in kept {
            for part in split(run, start, end) {
                let is_elsewhere = part.start < start || part.start >= end;
                if is_elsewhere || !has_breakpoints_only(&part, vma, &memory, &file)? {
                    rest.push(part);
                }
            }
        }
        kept = rest;
    }
    Ok(kept)
}

/// A run, of which the part in a range is in single pages.
fn split(run: Run, start: u64, end: u64) -> Vec<Run> {
    let (from, to) = (run.start.max(start), run.end.min(end));
    if from >= to {
        return vec![run];
    }
    let part = |start, end| Run { start, end, offset: 0 };
    let pages = (from..to).step_by(PAGE as usize).map(|at| part(at, at + PAGE));
    let parts = std::iter::once(part(run.start, from)).chain(pages).chain([part(to, run.end)]);
    parts.filter(|run| run.start < run.end).collect()
}

fn has_breakpoints_only(page: &Run, vma: &SmapsVma, memory: &Memory, file: &File) -> Result<bool, SysError> {
    let (mut here, mut there) = ([0; PAGE as usize], [0; PAGE as usize]);
    memory.read(page.start, &mut here)?;
    let offset = vma.vma.offset + (page.start - vma.vma.start);
    // A page behind the end of its file differs.
    let whole = file.read_exact_at(&mut there, offset).is_ok();
    Ok(whole && here.iter().zip(&there).all(|(here, there)| here == there || *here == BREAKPOINT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_in_the_range_is_in_pages() {
        let run = Run { start: 0x1000, end: 0x6000, offset: 7 };
        let ends = |runs: Vec<Run>| runs.iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
        let part = |start, end| ends(split(run, start, end));
        assert_eq!(
            part(0x3000, 0x5000),
            [(0x1000, 0x3000), (0x3000, 0x4000), (0x4000, 0x5000), (0x5000, 0x6000)]
        );
        assert_eq!(part(0x8000, 0x9000), [(0x1000, 0x6000)]);
    }
}
