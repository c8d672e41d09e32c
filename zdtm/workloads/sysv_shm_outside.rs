//! A process outside of the tree is attached to the same System V shared memory.

use nix::errno::Errno;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

const LENGTH: usize = 16384;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // SAFETY: the call takes numbers.
    let id = Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, LENGTH, libc::IPC_CREAT | 0o600) })?;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    // SAFETY: no buffer is needed for this command. The segment goes away with its last user.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) })?;
    zdtm::ensure!(start.addr() != usize::MAX, "shmat: {}", Errno::last());
    // SAFETY: the segment is attached until the end, and has this length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), LENGTH) };
    bytes.copy_from_slice(&pattern(1, LENGTH));
    // The child of a child that has ended is nobody's child here.
    let between = cx.child(|cx| {
        cx.child(|cx| {
            cx.post("outside")?;
            cx.wait_for("checked")
        })
        .map(drop)
    })?;
    between.join()?;
    cx.wait_for("outside")?;
    cx.barrier()?;
    cx.post("checked")?;
    check_pattern(bytes, 1, "contents")
}
