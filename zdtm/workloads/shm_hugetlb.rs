//! Segments of System V shared memory of huge pages: one that a child has attached, too, and one that nobody has.

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::PAGE;
use crate::shm;

const HUGE: usize = 2 << 20;
const SIZE: usize = 2 * HUGE;

fn make() -> Result<i32, Failure> {
    let flags = libc::IPC_CREAT | libc::SHM_HUGETLB | libc::MAP_HUGE_2MB | 0o600;
    // SAFETY: takes numbers only.
    Ok(Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, SIZE, flags) })?)
}

/// Attaches a segment; the page in use is the second.
fn attach(id: i32) -> Result<(usize, &'static mut [u8]), Failure> {
    let start = shm::place(id)?;
    // SAFETY: the segment is this long, and stays attached until the process ends.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), SIZE) };
    Ok((start.addr(), &mut bytes[HUGE..HUGE + PAGE]))
}

fn detach(start: usize) -> Verdict {
    // SAFETY: nobody uses the segment any more.
    Errno::result(unsafe { libc::shmdt(std::ptr::with_exposed_provenance(start)) })?;
    Ok(())
}

fn page_size(start: usize) -> Result<String, Failure> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{start:x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find_map(|line| line.strip_prefix("KernelPageSize:"));
    Ok(line.unwrap_or_default().trim().to_owned())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (used, unused) = (make()?, make()?);
    let (start, bytes) = attach(used)?;
    bytes.copy_from_slice(&pattern(1, PAGE));
    let (alone, written) = attach(unused)?;
    written.copy_from_slice(&pattern(2, PAGE));
    detach(alone)?;
    let child = cx.child(|cx| {
        cx.park()?;
        cx.wait_for("written")?;
        ensure_eq!(bytes[0], 42, "what the parent wrote");
        Ok(())
    })?;
    cx.barrier()?;
    check_pattern(bytes, 1, "contents")?;
    ensure_eq!(page_size(start)?, "2048 kB", "pages");
    ensure_eq!(shm::stat(used)?.shm_nattch, 2, "users");
    bytes[0] = 42;
    cx.post("written")?;
    child.join()?;
    ensure!(shm::stat(unused)?.shm_nattch == 0, "somebody has attached what nobody had");
    let (alone, written) = attach(unused)?;
    check_pattern(written, 2, "contents of what nobody had attached")?;
    ensure_eq!(page_size(alone)?, "2048 kB", "pages of what nobody had attached");
    Ok(())
}
