//! Shared anonymous memory that is open as a file, too, is one object with its mapping: written through the descriptor, it is
//! read in memory. The argument `priv` has it mapped privately once more, by the descriptor.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: NonZeroUsize = NonZeroUsize::new(16 * 4096).unwrap();

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let shared = unsafe { mmap_anonymous(None, LENGTH, rw, MapFlags::MAP_SHARED) }?;
    // SAFETY: the mapping has this length, and nobody else has it.
    let memory = unsafe { std::slice::from_raw_parts_mut(shared.as_ptr().cast::<u8>(), LENGTH.get()) };
    memory.copy_from_slice(&pattern(1, LENGTH.get()));
    let start = shared.as_ptr().addr();
    let link = format!("/proc/self/map_files/{start:x}-{:x}", start + LENGTH.get());
    let file = File::options().read(true).write(true).open(link)?;
    let own = if cx.args().iter().any(|arg| arg == "priv") {
        // SAFETY: a new mapping at a place that the kernel chooses.
        let own = unsafe { mmap(None, LENGTH, rw, MapFlags::MAP_PRIVATE, &file, 0) }?;
        // SAFETY: the mapping has this length, and nobody else has it.
        let own = unsafe { std::slice::from_raw_parts_mut(own.as_ptr().cast::<u8>(), LENGTH.get()) };
        own[..4096].copy_from_slice(&pattern(2, 4096));
        Some(own)
    } else {
        None
    };
    cx.barrier()?;
    check_pattern(memory, 1, "memory")?;
    file.write_all_at(b"through the file", 5000)?;
    ensure_eq!(&memory[5000..5016], b"through the file", "memory behind the file");
    if let Some(own) = own {
        check_pattern(&own[..4096], 2, "its own page")?;
        ensure_eq!(&own[5000..5016], b"through the file", "a page that is the file's");
        own[5000] = b'T';
        ensure_eq!(memory[5000], b't', "memory, when the private page was written to");
    }
    Ok(())
}
