//! Private and shared mappings of a file, with every protection, keep address, protection and contents.

use std::fs::{self, File, OpenOptions};

use nix::sys::mman::{MapFlags, ProtFlags};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE};

const LENGTH: usize = 4 * PAGE;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, pattern(1, LENGTH))?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let read_only = File::open(&path)?;
    let mut mappings = Vec::new();
    for flags in [MapFlags::MAP_PRIVATE, MapFlags::MAP_SHARED] {
        for bits in 0..8 {
            mappings.push(Mapping::file(&file, LENGTH, ProtFlags::from_bits_truncate(bits), flags)?);
        }
        mappings.push(Mapping::file(&read_only, LENGTH, ProtFlags::PROT_READ, flags)?);
    }
    drop((file, read_only));
    let before = lines(&mappings)?;
    cx.barrier()?;
    ensure_eq!(lines(&mappings)?, before, "the mappings in /proc/self/maps");
    for mapping in mappings {
        mapping.protect(ProtFlags::PROT_READ)?;
        check_pattern(mapping.bytes(), 1, "contents")?;
    }
    Ok(())
}

fn lines(mappings: &[Mapping]) -> Result<Vec<String>, Failure> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let has = |line: &&str| {
        let start = line.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok());
        mappings.iter().any(|mapping| Some(mapping.address()) == start)
    };
    Ok(maps.lines().filter(has).map(str::to_owned).collect())
}
