//! Advice given, combined, taken back, or given for a part of a mapping: flags are the same, and a new child sees it.

use std::fs;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

/// Advice in the order that it is given, and the flags of smaps (proc_pid_smaps(5)) that it leaves.
const ADVICE: [(&[i32], &[&str]); 10] = [
    (&[libc::MADV_HUGEPAGE], &["hg"]),
    (&[libc::MADV_NOHUGEPAGE], &["nh"]),
    (&[libc::MADV_NOHUGEPAGE, libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP], &["dd", "hg"]),
    (&[libc::MADV_RANDOM, libc::MADV_DONTFORK], &["dc", "rr"]),
    (&[libc::MADV_SEQUENTIAL, libc::MADV_WIPEONFORK, libc::MADV_DONTDUMP], &["dd", "sr", "wf"]),
    (&[libc::MADV_SEQUENTIAL, libc::MADV_NORMAL], &[]),
    (&[libc::MADV_DONTDUMP, libc::MADV_DODUMP], &[]),
    (&[libc::MADV_DONTFORK, libc::MADV_DOFORK, libc::MADV_RANDOM], &["rr"]),
    (&[libc::MADV_WIPEONFORK, libc::MADV_KEEPONFORK], &[]),
    (&[libc::MADV_DONTFORK, libc::MADV_WIPEONFORK, libc::MADV_NOHUGEPAGE], &["dc", "nh", "wf"]),
];
const KNOWN: [&str; 7] = ["dc", "dd", "hg", "nh", "rr", "sr", "wf"];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut parts = Vec::new();
    for (advice, flags) in ADVICE {
        let mut whole = Mapping::anonymous(5 * PAGE, READ_WRITE)?;
        whole.bytes_mut().copy_from_slice(&pattern(1, 5 * PAGE));
        let part = whole.part(PAGE, 3 * PAGE);
        for advice in advice {
            // SAFETY: none of these kinds of advice changes contents in this process.
            Errno::result(unsafe { libc::madvise(part.start.as_ptr(), part.length, *advice) })?;
        }
        ensure_eq!(flags_of(part)?, flags, "flags before the dump");
        parts.push((whole, part, flags));
    }

    cx.barrier()?;
    for (whole, part, flags) in &parts {
        ensure_eq!(flags_of(*part)?, *flags, "flags");
        ensure!(flags_of(whole.part(0, PAGE))?.is_empty(), "the page before has flags");
        ensure!(flags_of(whole.part(4 * PAGE, PAGE))?.is_empty(), "the page behind has flags");
        check_pattern(whole.bytes(), 1, "contents")?;
    }
    let child = cx.child(|_| {
        for (whole, part, flags) in &parts {
            ensure_eq!(inherited(*whole), Ok(1), "whether the child has the page before");
            let expected = if flags.contains(&"dc") { Err(Errno::EFAULT) } else { Ok(1) };
            ensure_eq!(inherited(*part), expected, format!("whether the child has what is {flags:?}"));
            if expected.is_ok() {
                let wiped = part.bytes().iter().all(|byte| *byte == 0);
                ensure_eq!(wiped, flags.contains(&"wf"), format!("whether {flags:?} was wiped"));
            }
        }
        Ok(())
    })?;
    child.join()
}

/// Has the kernel read a byte, which fails where we would fault.
fn inherited(page: Mapping) -> Result<usize, Errno> {
    let (_reader, writer) = nix::unistd::pipe()?;
    // SAFETY: the kernel checks the address.
    Errno::result(unsafe { libc::write(writer.as_raw_fd(), page.start.as_ptr(), 1) }).map(|n| n as usize)
}

/// The flags that advice leaves, in alphabetical order, of the mapping that covers the beginning of this one.
fn flags_of(mapping: Mapping) -> Result<Vec<&'static str>, Failure> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let covers = |line: &str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(start, end)| [start, end].map(|end| usize::from_str_radix(end, 16)));
        matches!(ends, Some([Ok(start), Ok(end)]) if (start..end).contains(&mapping.address()))
    };
    let flags = smaps.lines().skip_while(|line| !covers(line)).find_map(|line| line.strip_prefix("VmFlags:"));
    let flags = flags.ok_or_else(|| Failure::new(format!("{:#x} is not mapped", mapping.address())))?;
    Ok(KNOWN.into_iter().filter(|known| flags.split_whitespace().any(|flag| flag == *known)).collect())
}
