//! The mappings of each task.

use std::fmt;
use std::io::Write;

use proto::messages::{MmEntry, VmaEntry};

use super::image_set::Files;
use super::{CritError, ImageSet};

/// Writes the mappings of each task, much as /proc/PID/maps shows them.
pub fn mems(set: &ImageSet, output: &mut dyn Write) -> Result<(), CritError> {
    let files = set.files()?;
    for task in set.tasks()? {
        writeln!(output, "{} {}", task.pid, set.comm(task.pid)?)?;
        let Some(mm) = set.mm(task.pid)? else {
            continue;
        };
        writeln!(output, "\t{:<36}{}", "exe", files.path(mm.exe_file_id))?;
        for vma in &mm.vmas {
            let line = format!("{} {:08x}", Range(vma), vma.pgoff);
            writeln!(output, "\t{}", format!("{line:<48} {}", name(vma, &mm, &files)).trim_end())?;
        }
    }
    Ok(())
}

/// The addresses of a mapping and its permissions, as in /proc/PID/maps.
pub(super) struct Range<'a>(pub(super) &'a VmaEntry);

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(vma) = self;
        let letter = |bit: u32, letter: char| if vma.prot & bit == 0 { '-' } else { letter };
        // linux/mman.h: PROT_READ, PROT_WRITE, PROT_EXEC, MAP_SHARED.
        let (r, w, x) = (letter(1, 'r'), letter(2, 'w'), letter(4, 'x'));
        let sharing = if vma.flags & 1 == 0 { 'p' } else { 's' };
        write!(f, "{:08x}-{:08x} {r}{w}{x}{sharing}", vma.start, vma.end)
    }
}

/// What a mapping is of; nothing for ordinary anonymous memory.
pub(super) fn name(vma: &VmaEntry, mm: &MmEntry, files: &Files) -> String {
    // Bits of `status`, in the order in which they say more than the others.
    const SPECIAL: &[(u32, &str)] = &[
        (1 << 1, "[stack]"),
        (1 << 2, "[vsyscall]"),
        (1 << 3, "[vdso]"),
        (1 << 5, "[heap]"),
        (1 << 12, "[vvar]"),
        (1 << 13, "[aio]"),
        (1 << 15, "[shadow stack]"),
        (1 << 17, "[uprobes]"),
    ];
    const FILE: u32 = 1 << 6 | 1 << 7;
    const ANON_SHARED: u32 = 1 << 8;
    const SYSVIPC: u32 = 1 << 10;
    const SOCKET: u32 = 1 << 11;
    const MEMFD: u32 = 1 << 14;
    if let Some((_, name)) = SPECIAL.iter().find(|(bit, _)| vma.status & bit != 0) {
        return (*name).to_owned();
    }
    if (vma.start..vma.end).contains(&mm.mm_start_stack) {
        return "[stack]".to_owned();
    }
    let id = vma.shmid;
    let file = || u32::try_from(id).map_or_else(|_| format!("file {id}"), |id| files.mapped(id));
    match vma.status {
        status if status & (FILE | MEMFD) != 0 => file(),
        status if status & SYSVIPC != 0 => format!("[sysvipc {id}]"),
        status if status & SOCKET != 0 => format!("[socket {id}]"),
        status if status & ANON_SHARED != 0 => format!("[shared {id}]"),
        _ => String::new(),
    }
}
