//! Message queues keep their ids, keys, owners and limits, and their messages in order.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, pattern};

const KEY: i32 = 0x3e55;

pub(crate) fn make(key: i32) -> Result<i32, Failure> {
    // SAFETY: takes numbers only.
    Ok(Errno::result(unsafe { libc::msgget(key, libc::IPC_CREAT | libc::IPC_EXCL | 0o620) })?)
}

pub(crate) fn send(queue: i32, kind: i64, bytes: &[u8]) -> Verdict {
    let message = [&kind.to_ne_bytes()[..], bytes].concat();
    // SAFETY: the kernel reads the type and the bytes behind it.
    Errno::result(unsafe { libc::msgsnd(queue, message.as_ptr().cast(), bytes.len(), libc::IPC_NOWAIT) })?;
    Ok(())
}

/// Takes the first message of a type, or of all.
pub(crate) fn receive(queue: i32, kind: i64) -> Result<(i64, Vec<u8>), Failure> {
    let mut message = vec![0_u8; 8 + 8192];
    let most = message.len() - 8;
    // SAFETY: the kernel writes the type and at most as many bytes as follow it.
    let got = unsafe { libc::msgrcv(queue, message.as_mut_ptr().cast(), most, kind, libc::IPC_NOWAIT) };
    message.truncate(8 + Errno::result(got)? as usize);
    let bytes = message.split_off(8);
    Ok((i64::from_ne_bytes(message.try_into().unwrap_or_default()), bytes))
}

/// Key, owner, creator, mode; limit and number of messages.
fn who(queue: i32) -> Result<([u32; 6], [u64; 2]), Failure> {
    // SAFETY: plain numbers, all of which may be zero.
    let mut stat: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one structure.
    Errno::result(unsafe { libc::msgctl(queue, libc::IPC_STAT, &raw mut stat) })?;
    let perm = stat.msg_perm;
    let who = [perm.__key as u32, perm.uid, perm.gid, perm.cuid, perm.cgid, perm.mode.into()];
    Ok((who, [stat.msg_qbytes, stat.msg_qnum]))
}

fn limit(queue: i32, bytes: u64) -> Verdict {
    // SAFETY: plain numbers, all of which may be zero.
    let mut stat: libc::msqid_ds = unsafe { std::mem::zeroed() };
    (stat.msg_perm.uid, stat.msg_perm.gid, stat.msg_perm.mode) = (5, 6, 0o604);
    stat.msg_qbytes = bytes;
    // SAFETY: the kernel reads one structure.
    Errno::result(unsafe { libc::msgctl(queue, libc::IPC_SET, &raw mut stat) })?;
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (queue, empty, full) = (make(KEY)?, make(libc::IPC_PRIVATE)?, make(KEY + 1)?);
    let large = pattern(3, 8192);
    send(queue, 1, b"first")?;
    send(queue, 7, b"")?;
    send(queue, i64::MAX, b"odd length!")?;
    send(queue, 1, b"last")?;
    send(full, 2, &large)?;
    // Less than what is in it.
    limit(full, 100)?;
    let before = [who(queue)?, who(empty)?, who(full)?];
    cx.barrier()?;
    ensure_eq!([who(queue)?, who(empty)?, who(full)?], before, "what is known of the queues");
    ensure_eq!(receive(queue, 7)?, (7, Vec::new()), "the message of a type");
    ensure_eq!(receive(queue, 0)?, (1, b"first".to_vec()), "the first message");
    ensure_eq!(receive(queue, 0)?, (i64::MAX, b"odd length!".to_vec()), "the second message");
    ensure_eq!(receive(queue, 0)?, (1, b"last".to_vec()), "the last message");
    ensure_eq!(receive(full, 0)?, (2, large), "a large message");
    ensure_eq!(receive(empty, 0).is_err(), true, "a queue without messages");
    send(queue, 3, b"new")?;
    ensure_eq!(receive(queue, 0)?, (3, b"new".to_vec()), "a new message");
    Ok(())
}
