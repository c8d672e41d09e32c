//! Sets of semaphores keep their ids, keys, owners and values, and go on to work.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const KEY: i32 = 0x5e3a;
/// From `include/uapi/linux/sem.h`.
const GETALL: i32 = 13;
const SETALL: i32 = 17;

const VALUES: [u16; 3] = [0, 7, 32767];

fn make(key: i32, values: &[u16], mode: i32) -> Result<i32, Failure> {
    // SAFETY: takes numbers only.
    let id = Errno::result(unsafe {
        libc::semget(key, values.len() as i32, libc::IPC_CREAT | libc::IPC_EXCL | mode)
    })?;
    // SAFETY: the kernel reads as many values as the set has.
    Errno::result(unsafe { libc::semctl(id, 0, SETALL, values.as_ptr()) })?;
    Ok(id)
}

fn values<const N: usize>(id: i32) -> Result<[u16; N], Failure> {
    let mut values = [0; N];
    // SAFETY: the kernel writes as many values as the set has, which are as many.
    Errno::result(unsafe { libc::semctl(id, 0, GETALL, values.as_mut_ptr()) })?;
    Ok(values)
}

/// Key, owner, creator and mode.
fn who(id: i32) -> Result<[u32; 6], Failure> {
    // SAFETY: plain numbers, all of which may be zero.
    let mut stat: libc::semid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one structure.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_STAT, &raw mut stat) })?;
    let perm = stat.sem_perm;
    Ok([perm.__key as u32, perm.uid, perm.gid, perm.cuid, perm.cgid, perm.mode.into()])
}

fn change(id: i32, number: u16, by: i16) -> Verdict {
    let mut operation = libc::sembuf { sem_num: number, sem_op: by, sem_flg: libc::IPC_NOWAIT as i16 };
    // SAFETY: the kernel reads one operation.
    Errno::result(unsafe { libc::semop(id, &raw mut operation, 1) })?;
    Ok(())
}

fn own(id: i32, uid: u32, gid: u32) -> Verdict {
    // SAFETY: plain numbers, all of which may be zero.
    let mut stat: libc::semid_ds = unsafe { std::mem::zeroed() };
    stat.sem_perm.uid = uid;
    stat.sem_perm.gid = gid;
    stat.sem_perm.mode = 0o640;
    // SAFETY: the kernel reads one structure.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_SET, &raw mut stat) })?;
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let gone = make(libc::IPC_PRIVATE, &[1], 0o600)?;
    let (named, private) = (make(KEY, &VALUES, 0o660)?, make(libc::IPC_PRIVATE, &[5], 0o600)?);
    // SAFETY: takes numbers only. The ids that are left are not the first.
    Errno::result(unsafe { libc::semctl(gone, 0, libc::IPC_RMID) })?;
    nix::unistd::seteuid(23.into())?;
    let others = make(KEY + 1, &[9], 0o600);
    nix::unistd::seteuid(0.into())?;
    let others = others?;
    own(named, 12, 34)?;
    let before = [who(named)?, who(private)?, who(others)?];
    cx.barrier()?;
    ensure_eq!([who(named)?, who(private)?, who(others)?], before, "keys, owners, creators and modes");
    ensure_eq!(values(named)?, VALUES, "values");
    ensure_eq!((values(private)?, values(others)?), ([5], [9]), "values of the other sets");
    change(named, 1, -7)?;
    ensure_eq!(values(named)?, [0, 0, 32767], "values after one was taken");
    // SAFETY: takes numbers only.
    let found = Errno::result(unsafe { libc::semget(KEY, 3, 0) })?;
    ensure_eq!(found, named, "the set of the key");
    Ok(())
}
