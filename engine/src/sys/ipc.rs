//! Segments of System V shared memory.

use std::mem::MaybeUninit;

use nix::errno::Errno;

use crate::error::SysError;

/// What a segment is (`shmctl(IPC_STAT)`).
pub fn shm_stat(id: i32) -> Result<libc::shmid_ds, SysError> {
    let mut stat = MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: the kernel writes one structure.
    let got = unsafe { libc::shmctl(id, libc::IPC_STAT, stat.as_mut_ptr()) };
    Errno::result(got).map_err(SysError::of("shmctl(IPC_STAT)"))?;
    // SAFETY: plain numbers, zeroed and then filled in by the kernel.
    Ok(unsafe { stat.assume_init() })
}

/// A new segment.
pub fn shm_create(key: i32, size: usize, flags: i32) -> Result<i32, SysError> {
    // SAFETY: takes numbers only.
    let id = unsafe { libc::shmget(key, size, flags | libc::IPC_CREAT | libc::IPC_EXCL) };
    Errno::result(id).map_err(SysError::of("shmget"))
}

/// Sets owner and mode.
pub fn shm_set(id: i32, uid: u32, gid: u32, mode: u32) -> Result<(), SysError> {
    let mut stat = shm_stat(id)?;
    stat.shm_perm.uid = uid;
    stat.shm_perm.gid = gid;
    stat.shm_perm.mode = mode as libc::c_ushort;
    // SAFETY: the kernel reads one structure.
    let set = unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut stat) };
    Errno::result(set).map(drop).map_err(SysError::of("shmctl(IPC_SET)"))
}

/// Has a segment go away with its last user.
pub fn shm_remove(id: i32) -> Result<(), SysError> {
    // SAFETY: the command takes no structure.
    let removed = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    Errno::result(removed).map(drop).map_err(SysError::of("shmctl(IPC_RMID)"))
}

/// A segment in our memory.
#[derive(Debug)]
pub struct Attached {
    start: *mut libc::c_void,
}

impl Attached {
    /// Attaches it.
    pub fn new(id: i32) -> Result<Self, SysError> {
        // SAFETY: the kernel chooses the place.
        let start = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        if start.addr() == usize::MAX { Err(SysError::last("shmat")) } else { Ok(Self { start }) }
    }

    /// Where it is.
    pub fn start(&self) -> u64 {
        self.start.addr() as u64
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: nothing points into the segment.
        let detached = unsafe { libc::shmdt(self.start) };
        debug_assert!(detached == 0);
    }
}
