//! Pages that are in swap when the process is dumped have their contents afterwards.
//!
//! A file of its own is the swap, which is given up again.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern, status_line};

use crate::mapping::{Mapping, PAGE};

const LENGTH: usize = 512 * PAGE;
/// Pages of the swap: it need not hold more than that.
const SWAP: u32 = 2048;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("swap");
    make_swap(&path)?;
    let name =
        CString::new(path.as_os_str().as_bytes()).map_err(|_error| Failure::new("a path with a zero"))?;
    // SAFETY: the name is a string of ours.
    Errno::result(unsafe { libc::swapon(name.as_ptr(), 0) })?;
    let verdict = swapped(cx);
    // SAFETY: as above.
    let off = Errno::result(unsafe { libc::swapoff(name.as_ptr()) });
    fs::remove_file(&path)?;
    off?;
    verdict
}

fn swapped(cx: &mut Context) -> Verdict {
    let mut mapping = Mapping::apart(LENGTH)?;
    mapping.bytes_mut().copy_from_slice(&pattern(1, LENGTH));
    // SAFETY: contents stay what they are, wherever they are.
    Errno::result(unsafe { libc::madvise(mapping.start.as_ptr(), LENGTH, libc::MADV_PAGEOUT) })?;
    let swapped: usize = status_line("/proc/self/status", "VmSwap")?.trim_end_matches(" kB").parse()?;
    ensure!(swapped * 1024 >= LENGTH / 2, "only {swapped} kB are in swap");
    cx.barrier()?;
    check_pattern(mapping.bytes(), 1, "contents")
}

/// What mkswap(8) writes: the version and the last page, and the magic at the end of the first page.
fn make_swap(path: &std::path::Path) -> Verdict {
    let file = File::create_new(path)?;
    let zeros = vec![0; PAGE];
    for page in 0..SWAP {
        file.write_all_at(&zeros, u64::from(page) * PAGE as u64)?;
    }
    file.write_all_at(&1_u32.to_le_bytes(), 1024)?;
    file.write_all_at(&(SWAP - 1).to_le_bytes(), 1028)?;
    file.write_all_at(b"SWAPSPACE2", PAGE as u64 - 10)?;
    Ok(file.sync_all()?)
}
