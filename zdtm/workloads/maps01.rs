//! Mappings of every protection, private and shared, of files and anonymous, allow and hold what they did.

use std::fs::{self, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const LENGTH: usize = 3 * PAGE;

#[derive(Debug, PartialEq, Eq)]
struct Facts {
    line: String,
    read: Result<i64, Errno>,
    written: Result<i64, Errno>,
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let mut mappings = Vec::new();
    for sharing in [MapFlags::MAP_PRIVATE, MapFlags::MAP_SHARED] {
        for bits in 0..8 {
            fs::write(&path, pattern(7, LENGTH + PAGE))?;
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            fs::remove_file(&path)?;
            let of_file = Mapping::file_at(&file, PAGE, LENGTH, READ_WRITE, sharing)?;
            for mut mapping in [anonymous(sharing)?, of_file] {
                let seed = mappings.len() as u64;
                mapping.bytes_mut().copy_from_slice(&pattern(seed, LENGTH));
                mapping.protect(ProtFlags::from_bits_truncate(bits))?;
                mappings.push(mapping);
            }
        }
    }
    let before = mappings.iter().map(facts).collect::<Result<Vec<_>, _>>()?;

    cx.barrier()?;
    for (mapping, before) in mappings.iter().zip(&before) {
        ensure_eq!(facts(mapping)?, *before, "a mapping");
    }
    for (seed, mapping) in (0..).zip(&mut mappings) {
        mapping.protect(READ_WRITE)?;
        check_pattern(mapping.bytes(), seed, &format!("contents of mapping {seed}"))?;
        mapping.bytes_mut().fill(seed as u8);
    }
    for (seed, mapping) in (0..).zip(&mappings) {
        let alone = mapping.bytes().iter().all(|byte| *byte == seed);
        ensure!(alone, "mapping {seed} is shared with another one");
    }
    Ok(())
}

fn anonymous(sharing: MapFlags) -> Result<Mapping, Failure> {
    let size = NonZeroUsize::new(LENGTH).ok_or_else(|| Failure::new("an empty mapping"))?;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, size, READ_WRITE, sharing) }?;
    Ok(Mapping { start, length: LENGTH })
}

/// What maps says, and what the kernel can do with the last byte on our behalf.
fn facts(mapping: &Mapping) -> Result<Facts, Failure> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let covers = |line: &&str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(start, end)| [start, end].map(|end| usize::from_str_radix(end, 16)));
        matches!(ends, Some([Ok(start), Ok(end)]) if (start..end).contains(&mapping.address()))
    };
    let line = maps.lines().find(covers).ok_or_else(|| Failure::new("a mapping is gone"))?;
    let byte = mapping.part(LENGTH - 1, 1).start.as_ptr();
    let (reader, writer) = nix::unistd::pipe()?;
    // SAFETY: the kernel checks the address.
    let read = Errno::result(unsafe { libc::write(writer.as_raw_fd(), byte, 1) }).map(|count| count as i64);
    // The byte goes back where it came from.
    // SAFETY: as above; no reference into the mapping is alive.
    let back =
        |_| Errno::result(unsafe { libc::read(reader.as_raw_fd(), byte, 1) }).map(|count| count as i64);
    let written = read.and_then(back);
    // Numbers of inodes are not kept: neither those of removed files nor of shared memory.
    let words = line.split_whitespace().enumerate().filter(|(place, _)| *place != 4);
    let line = words.map(|(_, word)| word).collect::<Vec<_>>().join(" ");
    Ok(Facts { line, read, written })
}
