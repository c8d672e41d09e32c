//! A hundred thousand mappings are as they were, each with its protection and its page; some among them are advised and locked.
//!
//! `vm.max_map_count` is raised for that, and put back.

use std::fs;

use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const COUNT: usize = 100_000;
/// What the kernel allows as a rule is less.
const LIMIT: &str = "/proc/sys/vm/max_map_count";
/// Advice for some of them, each with a flag of its own.
const ADVICE: [i32; 5] = [
    libc::MADV_SEQUENTIAL,
    libc::MADV_RANDOM,
    libc::MADV_DONTFORK,
    libc::MADV_WIPEONFORK,
    libc::MADV_DONTDUMP,
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let before = fs::read_to_string(LIMIT)?;
    if before.trim().parse::<usize>()? < 2 * COUNT {
        fs::write(LIMIT, (2 * COUNT).to_string())?;
    }
    let verdict = many(cx);
    fs::write(LIMIT, before)?;
    verdict
}

fn many(cx: &mut Context) -> Verdict {
    let mut all = Mapping::apart(COUNT * PAGE)?;
    for (number, page) in all.bytes_mut().chunks_mut(PAGE).enumerate() {
        page[..8].copy_from_slice(&number.to_le_bytes());
    }
    for page in (0..COUNT).step_by(2) {
        all.part(page * PAGE, PAGE).protect(ProtFlags::PROT_READ)?;
    }
    for (at, advice) in ADVICE.iter().enumerate() {
        let page = all.part((1000 + 2 * at) * PAGE, PAGE);
        // SAFETY: none of these changes contents in this process.
        Errno::result(unsafe { libc::madvise(page.start.as_ptr(), PAGE, *advice) })?;
    }
    // SAFETY: locks a page of ours.
    Errno::result(unsafe { libc::mlock(all.part(5000 * PAGE, PAGE).start.as_ptr(), PAGE) })?;
    let before = mappings(all)?;
    ensure!(before.len() >= COUNT, "there are {} mappings", before.len());
    cx.barrier()?;
    let after = mappings(all)?;
    ensure_eq!(after.len(), before.len(), "how many mappings");
    ensure!(after == before, "the mappings differ");
    for (number, page) in all.bytes().chunks(PAGE).enumerate() {
        ensure!(page[..8] == number.to_le_bytes(), "page {number} differs");
    }
    all.protect(READ_WRITE)
}

/// The lines of the mappings that are parts of this one.
fn mappings(all: Mapping) -> Result<Vec<String>, Failure> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let inside = |line: &&str| {
        let start = line.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok());
        start.is_some_and(|start| (all.address()..all.address() + all.length).contains(&start))
    };
    Ok(maps.lines().filter(inside).map(str::to_owned).collect())
}
