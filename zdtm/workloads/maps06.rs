//! Mappings that were cut, moved, grown, shrunk, split and joined are where they went, and nothing is where they were.

use std::fs::{self, File};

use nix::errno::Errno;
use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags, mremap, munmap};
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const PAGES: usize = 12;
const LENGTH: usize = PAGES * PAGE;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, pattern(9, LENGTH))?;
    let file = File::options().read(true).write(true).open(&path)?;
    let cut = filled(Mapping::anonymous(LENGTH, READ_WRITE)?);
    unmap(cut.part(0, PAGE))?;
    unmap(cut.part(4 * PAGE, 2 * PAGE))?;
    unmap(cut.part(LENGTH - PAGE, PAGE))?;
    let private = filled(Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_PRIVATE)?);
    // The pages that remain untouched behind it are of the file.
    let moved = remap(private.part(3 * PAGE, 4 * PAGE), 6 * PAGE)?;
    let rest = filled(Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_SHARED)?);
    let shared = remap(rest.part(5 * PAGE, 2 * PAGE), 2 * PAGE)?;
    unmap(rest.part(0, 2 * PAGE))?;
    let grown = remap(filled(Mapping::anonymous(LENGTH, READ_WRITE)?), 2 * LENGTH)?;
    let shrunk = remap(filled(Mapping::anonymous(LENGTH, READ_WRITE)?), LENGTH - 5 * PAGE)?;
    let split = filled(Mapping::anonymous(LENGTH, READ_WRITE)?);
    split.part(PAGE, PAGE).protect(ProtFlags::PROT_READ)?;
    split.part(3 * PAGE, 2 * PAGE).protect(ProtFlags::PROT_NONE)?;
    split.part(7 * PAGE, PAGE).protect(ProtFlags::PROT_READ)?;
    split.part(7 * PAGE, PAGE).protect(READ_WRITE)?;
    let all = [cut, private, moved, rest, shared, grown, shrunk, split];
    let before = all.map(|mapping| mapped(mapping).to_vec());

    cx.barrier()?;
    ensure_eq!(all.map(|mapping| mapped(mapping).to_vec()), before, "which pages are mapped");
    let bytes = pattern(1, LENGTH);
    for (from, to) in [(1, 4), (6, PAGES - 1)] {
        let (from, to) = (from * PAGE, to * PAGE);
        ensure!(cut.part(from, to - from).bytes() == &bytes[from..to], "what was not cut at {from} differs");
    }
    ensure!(moved.part(0, 4 * PAGE).bytes() == &bytes[3 * PAGE..7 * PAGE], "the moved pages differ");
    let original = fs::read(&path)?;
    ensure!(
        moved.part(4 * PAGE, 2 * PAGE).bytes() == &original[7 * PAGE..9 * PAGE],
        "what it grew by differs"
    );
    ensure!(shared.bytes() == &bytes[5 * PAGE..7 * PAGE], "the moved shared pages differ");
    shared.part(0, 1).bytes_mut()[0] = 42;
    ensure_eq!(fs::read(&path)?[5 * PAGE], 42, "the file, written through the moved mapping");
    check_pattern(grown.part(0, LENGTH).bytes(), 1, "the pages of the mapping that grew")?;
    ensure!(grown.part(LENGTH, LENGTH).bytes().iter().all(|byte| *byte == 0), "its new pages are not empty");
    check_pattern(shrunk.bytes(), 1, "the mapping that shrank")?;
    split.protect(READ_WRITE)?;
    check_pattern(split.bytes(), 1, "the mapping that was split")
}

fn filled(mut mapping: Mapping) -> Mapping {
    let contents = pattern(1, mapping.length);
    mapping.bytes_mut().copy_from_slice(&contents);
    mapping
}

fn unmap(mapping: Mapping) -> Verdict {
    // SAFETY: nobody looks at these pages again.
    Ok(unsafe { munmap(mapping.start, mapping.length) }?)
}

fn remap(mapping: Mapping, length: usize) -> Result<Mapping, Failure> {
    let flags = MRemapFlags::MREMAP_MAYMOVE;
    // SAFETY: only the mapping that is returned is used from here on.
    let start = unsafe { mremap(mapping.start, mapping.length, length, flags, None) }?;
    Ok(Mapping { start, length })
}

/// Whether each page is mapped: mincore(2) fails for one that is not.
fn mapped(mapping: Mapping) -> [bool; PAGES] {
    std::array::from_fn(|page| {
        let mut resident = 0_u8;
        let start = mapping.part(page * PAGE, PAGE).start.as_ptr();
        // SAFETY: the kernel checks the address, and writes one byte.
        Errno::result(unsafe { libc::mincore(start, PAGE, &raw mut resident) }).is_ok()
    })
}
