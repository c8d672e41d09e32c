//! A process is attached to a System V shared memory segment of its own, and is again: contents, id, mode, and removal.

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};

use crate::shm;

const LENGTH: usize = 16384;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (id, bytes) = attach()?;
    cx.barrier()?;
    check_pattern(bytes, 1, "contents")?;
    let stat = shm::stat(id)?;
    zdtm::ensure_eq!((stat.shm_segsz, stat.shm_nattch), (LENGTH, 1), "size and users of the same id");
    // SHM_DEST: it goes away with its last user.
    zdtm::ensure_eq!(stat.shm_perm.mode, 0o1600, "mode");
    Ok(())
}

/// A segment of a known pattern that goes away with its last user: its id, and its memory.
pub(crate) fn attach() -> Result<(i32, &'static [u8]), Failure> {
    // SAFETY: the call takes numbers.
    let id = Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, LENGTH, libc::IPC_CREAT | 0o600) })?;
    let start = shm::place(id);
    // SAFETY: no buffer is needed for this command. The segment goes away with its last user.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) })?;
    // SAFETY: the segment is attached until the end, and has this length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start?.cast::<u8>(), LENGTH) };
    bytes.copy_from_slice(&pattern(1, LENGTH));
    Ok((id, bytes))
}
