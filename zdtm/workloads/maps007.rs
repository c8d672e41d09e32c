//! A process that maps, writes, reads and unmaps all the time always finds what it wrote.

use std::fs::OpenOptions;

use nix::sys::mman::{MapFlags, munmap};
use zdtm::ensure;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mapper = cx.child(|cx| {
        let path = cx.path("file");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(1 << 20)?;
        let mut rounds = 0_u64;
        while !cx.passed() {
            let length = (1 + rounds as usize % 16) * PAGE;
            let mut mapping = match rounds % 3 {
                0 => Mapping::anonymous(length, READ_WRITE)?,
                1 => Mapping::file(&file, length, READ_WRITE, MapFlags::MAP_SHARED)?,
                _ => Mapping::file_at(&file, PAGE, length, READ_WRITE, MapFlags::MAP_PRIVATE)?,
            };
            mapping.bytes_mut().copy_from_slice(&pattern(rounds, length));
            check_pattern(mapping.bytes(), rounds, "contents")?;
            // SAFETY: nothing refers to the mapping any more.
            unsafe { munmap(mapping.start, length) }?;
            rounds += 1;
            if rounds == 20 {
                cx.post("mapping")?;
            }
        }
        ensure!(rounds > 20, "only {rounds} rounds");
        Ok(())
    })?;
    cx.wait_for("mapping")?;
    cx.barrier()?;
    mapper.join()
}
