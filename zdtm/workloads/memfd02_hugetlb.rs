//! A memory file of hugetlb pages that two processes have mapped, shared and private, is one file again, holes and all.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::MapFlags;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const HUGE: usize = 2 << 20;
const LENGTH: usize = 3 * HUGE;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = File::from(memfd_create("huge", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)?);
    file.set_len(LENGTH as u64)?;
    let mut shared = Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_SHARED)?;
    shared.part(HUGE - PAGE, PAGE).bytes_mut().copy_from_slice(&pattern(1, PAGE));
    shared.part(HUGE, PAGE).bytes_mut().copy_from_slice(&pattern(2, PAGE));
    let mut private = Mapping::file_at(&file, HUGE, HUGE, READ_WRITE, MapFlags::MAP_PRIVATE)?;
    private.bytes_mut()[PAGE] = 3;
    let child = cx.child(|cx| {
        cx.park()?;
        cx.wait_for("written")?;
        ensure_eq!(shared.bytes()[0], 42, "what the parent wrote");
        check_pattern(private.part(0, PAGE).bytes(), 2, "what the child's copied page held before")?;
        ensure_eq!(private.bytes()[PAGE], 3, "the child's copied page");
        Ok(())
    })?;
    let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;

    cx.barrier()?;
    ensure_eq!(fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?, name, "name");
    let size = file.metadata()?.len();
    ensure_eq!(size, LENGTH as u64, "size");
    for mapping in [shared, private] {
        ensure!(is_huge(mapping)?, "a mapping has other pages");
    }
    check_pattern(shared.part(HUGE - PAGE, PAGE).bytes(), 1, "the end of the first page")?;
    check_pattern(shared.part(HUGE, PAGE).bytes(), 2, "the beginning of the second one")?;
    ensure_eq!(shared.part(HUGE, HUGE).bytes()[PAGE], 0, "what the private mapping changed for itself");
    ensure_eq!(private.bytes()[PAGE], 3, "the copied page");
    shared.bytes_mut()[0] = 42;
    cx.post("written")?;
    child.join()?;
    let again = Mapping::file(&file, HUGE, READ_WRITE, MapFlags::MAP_SHARED)?;
    ensure_eq!(again.bytes()[0], 42, "the file, mapped again");
    Ok(())
}

fn is_huge(mapping: Mapping) -> Result<bool, Failure> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{:x}-", mapping.address());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    Ok(lines.find(|line| line.starts_with("KernelPageSize")).is_some_and(|line| line.contains("2048 kB")))
}
