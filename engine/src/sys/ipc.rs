//! Segments of shared memory, sets of semaphores and message queues of System V.

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

/// What a set of semaphores is (`semctl(IPC_STAT)`).
pub fn sem_stat(id: i32) -> Result<libc::semid_ds, SysError> {
    let mut stat = MaybeUninit::<libc::semid_ds>::zeroed();
    // SAFETY: the kernel writes one structure.
    let got = unsafe { libc::semctl(id, 0, libc::IPC_STAT, stat.as_mut_ptr()) };
    Errno::result(got).map_err(SysError::of("semctl(IPC_STAT)"))?;
    // SAFETY: plain numbers, zeroed and then filled in by the kernel.
    Ok(unsafe { stat.assume_init() })
}

/// The values of a set of `count` semaphores.
pub fn sem_values(id: i32, count: usize) -> Result<Vec<u16>, SysError> {
    /// From `include/uapi/linux/sem.h`.
    const GETALL: i32 = 13;
    // A set may have been replaced by a larger one: the kernel is told how large it is only by being as large.
    let mut values = vec![0_u16; count.max(SEMMSL)];
    // SAFETY: the kernel writes as many values as the set has, which is no more than there are.
    let got = unsafe { libc::semctl(id, 0, GETALL, values.as_mut_ptr()) };
    Errno::result(got).map_err(SysError::of("semctl(GETALL)"))?;
    values.truncate(count);
    Ok(values)
}

/// The most semaphores of a set that a namespace may allow (`SEMMSL` of `include/uapi/linux/sem.h` is the default).
const SEMMSL: usize = 1 << 16;

/// A new set of semaphores.
pub fn sem_create(key: i32, count: i32, flags: i32) -> Result<i32, SysError> {
    // SAFETY: takes numbers only.
    let id = unsafe { libc::semget(key, count, flags | libc::IPC_CREAT | libc::IPC_EXCL) };
    Errno::result(id).map_err(SysError::of("semget"))
}

/// Sets the values of a new set, which has as many semaphores.
pub fn sem_set_values(id: i32, values: &[u16]) -> Result<(), SysError> {
    /// From `include/uapi/linux/sem.h`.
    const SETALL: i32 = 17;
    let all = sem_stat(id)?.sem_nsems as usize;
    if all != values.len() {
        return Err(SysError { call: "semctl(SETALL)", errno: Errno::EINVAL });
    }
    // SAFETY: the kernel reads as many values as the set has, which are there.
    let set = unsafe { libc::semctl(id, 0, SETALL, values.as_ptr()) };
    Errno::result(set).map(drop).map_err(SysError::of("semctl(SETALL)"))
}

/// Sets owner and mode of a set of semaphores.
pub fn sem_set(id: i32, uid: u32, gid: u32, mode: u32) -> Result<(), SysError> {
    let mut stat = sem_stat(id)?;
    stat.sem_perm.uid = uid;
    stat.sem_perm.gid = gid;
    stat.sem_perm.mode = mode as libc::c_ushort;
    // SAFETY: the kernel reads one structure.
    let set = unsafe { libc::semctl(id, 0, libc::IPC_SET, &raw mut stat) };
    Errno::result(set).map(drop).map_err(SysError::of("semctl(IPC_SET)"))
}

/// What a message queue is (`msgctl(IPC_STAT)`).
pub fn msg_stat(id: i32) -> Result<libc::msqid_ds, SysError> {
    let mut stat = MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: the kernel writes one structure.
    let got = unsafe { libc::msgctl(id, libc::IPC_STAT, stat.as_mut_ptr()) };
    Errno::result(got).map_err(SysError::of("msgctl(IPC_STAT)"))?;
    // SAFETY: plain numbers, zeroed and then filled in by the kernel.
    Ok(unsafe { stat.assume_init() })
}

/// A new message queue.
pub fn msg_create(key: i32, flags: i32) -> Result<i32, SysError> {
    // SAFETY: takes numbers only.
    let id = unsafe { libc::msgget(key, flags | libc::IPC_CREAT | libc::IPC_EXCL) };
    Errno::result(id).map_err(SysError::of("msgget"))
}

/// Sets owner, mode and the limit of bytes of a message queue.
pub fn msg_set(id: i32, uid: u32, gid: u32, mode: u32, bytes: u64) -> Result<(), SysError> {
    let mut stat = msg_stat(id)?;
    stat.msg_perm.uid = uid;
    stat.msg_perm.gid = gid;
    stat.msg_perm.mode = mode as libc::c_ushort;
    stat.msg_qbytes = bytes;
    // SAFETY: the kernel reads one structure.
    let set = unsafe { libc::msgctl(id, libc::IPC_SET, &raw mut stat) };
    Errno::result(set).map(drop).map_err(SysError::of("msgctl(IPC_SET)"))
}

/// A copy of the message at a place of a queue, of `most` bytes at most: its type and its bytes; the message stays
/// (`MSG_COPY`, Linux 3.8). None behind the last.
pub fn msg_peek(id: i32, place: i64, most: usize) -> Result<Option<(i64, Vec<u8>)>, SysError> {
    /// From `include/uapi/linux/msg.h`.
    const MSG_COPY: i32 = 0o40000;
    let mut message = vec![0_u8; size_of::<i64>() + most];
    let flags = MSG_COPY | libc::IPC_NOWAIT;
    // SAFETY: the kernel writes the type and at most as many bytes as follow it.
    let got = unsafe { libc::msgrcv(id, message.as_mut_ptr().cast(), most, place, flags) };
    match Errno::result(got) {
        Ok(length) => {
            message.truncate(size_of::<i64>() + length as usize);
            let bytes = message.split_off(size_of::<i64>());
            let kind = message.try_into().map(i64::from_ne_bytes).unwrap_or_default();
            Ok(Some((kind, bytes)))
        }
        Err(Errno::ENOMSG) => Ok(None),
        Err(errno) => Err(SysError { call: "msgrcv(MSG_COPY)", errno }),
    }
}

/// Sends a message; never waits for room.
pub fn msg_send(id: i32, kind: i64, bytes: &[u8]) -> Result<(), SysError> {
    let message = [&kind.to_ne_bytes()[..], bytes].concat();
    // SAFETY: the kernel reads the type and the bytes that follow it.
    let sent = unsafe { libc::msgsnd(id, message.as_ptr().cast(), bytes.len(), libc::IPC_NOWAIT) };
    Errno::result(sent).map(drop).map_err(SysError::of("msgsnd"))
}
