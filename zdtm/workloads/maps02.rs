//! Advice on memory is kept: not dumped in cores, not inherited by children, wiped in them.

use std::fs;

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

/// The advice, and the flag that smaps shows for it (proc_pid_smaps(5)).
const ADVICE: [(i32, &str); 5] = [
    (libc::MADV_DONTDUMP, "dd"),
    (libc::MADV_DONTFORK, "dc"),
    (libc::MADV_WIPEONFORK, "wf"),
    (libc::MADV_SEQUENTIAL, "sr"),
    (libc::MADV_RANDOM, "rr"),
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut mappings = Vec::new();
    for (advice, flag) in ADVICE {
        let whole = Mapping::anonymous(3 * PAGE, READ_WRITE)?;
        let mut middle = whole.part(PAGE, PAGE);
        middle.bytes_mut().fill(advice as u8);
        // SAFETY: none of these kinds of advice changes contents in this process.
        Errno::result(unsafe { libc::madvise(middle.start.as_ptr(), PAGE, advice) })?;
        mappings.push((middle, advice, flag));
    }
    cx.barrier()?;
    for (mapping, advice, flag) in mappings {
        let flags = flags_at(mapping.address())?;
        ensure!(flags.split_whitespace().any(|word| word == flag), "{flag} is missing in {flags}");
        ensure_eq!(mapping.bytes()[PAGE - 1], advice as u8, "contents");
    }
    Ok(())
}

fn flags_at(address: usize) -> Result<String, Failure> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let head = format!("{address:x}-");
    let flags =
        smaps.lines().skip_while(|line| !line.starts_with(&head)).find(|line| line.starts_with("VmFlags"));
    flags.map(str::to_owned).ok_or_else(|| Failure::new(format!("no mapping starts at {address:#x}")))
}
