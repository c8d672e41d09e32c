//! Segments of System V shared memory, attached by several processes or by nobody, keep ids, keys, owners and contents:
//! `shm BYTES PROCESSES`.

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const KEY: i32 = 0x5417;

pub(crate) fn make(key: i32, size: usize) -> Result<i32, Failure> {
    // SAFETY: takes numbers only.
    Ok(Errno::result(unsafe { libc::shmget(key, size, libc::IPC_CREAT | libc::IPC_EXCL | 0o640) })?)
}

/// Attaches a segment, and tells where.
pub(crate) fn place(id: i32) -> Result<*mut libc::c_void, Failure> {
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    ensure!(start.addr() != usize::MAX, "shmat: {}", Errno::last());
    Ok(start)
}

pub(crate) fn attach(id: i32, size: usize) -> Result<&'static mut [u8], Failure> {
    let start = place(id)?;
    // SAFETY: the segment has this length, and whoever detaches it uses it no more.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), size) })
}

pub(crate) fn detach(bytes: &mut [u8]) -> Verdict {
    // SAFETY: the segment is not used any more.
    Errno::result(unsafe { libc::shmdt(bytes.as_mut_ptr().cast()) })?;
    Ok(())
}

/// All bytes but the first, which tasks write to.
fn check_rest(bytes: &[u8], what: &str) -> Verdict {
    ensure!(bytes[1..] == pattern(1, bytes.len())[1..], "{what} differ");
    Ok(())
}

/// What the kernel tells of a segment.
pub(crate) fn stat(id: i32) -> Result<libc::shmid_ds, Failure> {
    // SAFETY: plain numbers, all of which may be zero.
    let mut stat: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one structure.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut stat) })?;
    Ok(stat)
}

/// Key, owner and mode; size and users.
fn look(id: i32) -> Result<([u32; 4], [u64; 2]), Failure> {
    let stat = stat(id)?;
    let perm = stat.shm_perm;
    let who = [perm.__key as u32, perm.uid, perm.gid, perm.mode.into()];
    Ok((who, [stat.shm_segsz as u64, stat.shm_nattch]))
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let number = |at: usize| cx.args().get(at).and_then(|word| word.parse::<usize>().ok());
    let (Some(size), Some(processes)) = (number(0), number(1)) else {
        return Err(Failure::new("shm BYTES PROCESSES"));
    };
    let (used, unused) = (make(KEY, size)?, make(libc::IPC_PRIVATE, size)?);
    let shared = attach(used, size)?;
    shared.copy_from_slice(&pattern(1, size));
    let alone = attach(unused, size)?;
    alone.copy_from_slice(&pattern(2, size));
    detach(alone)?;
    let mut children = Vec::new();
    for number in 1..processes {
        let mut own = Vec::new();
        // Half of them have it from their parent, and the others a second time.
        let child = cx.child(|cx| {
            if number % 2 == 0 {
                own.push(attach(used, size)?);
            }
            cx.post(&format!("child.{number}"))?;
            cx.park()?;
            own.iter().try_for_each(|bytes| check_rest(bytes, "contents, attached again"))?;
            cx.wait_for(&format!("changed.{}", number - 1))?;
            let last = std::fs::read(cx.path("value"))?;
            ensure_eq!([shared[0]], *last, "what another process wrote");
            shared[0] = number as u8;
            std::fs::write(cx.path("value"), [number as u8])?;
            cx.post(&format!("changed.{number}"))
        })?;
        cx.wait_for(&format!("child.{number}"))?;
        children.push(child);
    }
    let before = [look(used)?, look(unused)?];
    cx.barrier()?;
    ensure_eq!([look(used)?, look(unused)?], before, "keys, owners, modes, sizes and users");
    check_rest(shared, "contents")?;
    std::fs::write(cx.path("value"), [shared[0]])?;
    cx.post("changed.0")?;
    children.into_iter().try_for_each(zdtm::workload::Child::join)?;
    ensure_eq!(
        usize::from(shared[0]),
        if processes > 1 { processes - 1 } else { shared[0].into() },
        "the last value"
    );
    let alone = attach(unused, size)?;
    check_pattern(alone, 2, "contents of a segment that nobody had attached")?;
    detach(alone)
}
