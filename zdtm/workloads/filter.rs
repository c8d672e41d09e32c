//! Small seccomp filters for workloads: each makes one system call fail.

use nix::errno::Errno;
use zdtm::workload::{Failure, Verdict};

/// From `include/uapi/linux/seccomp.h`.
pub(crate) const TSYNC: u32 = 1;
pub(crate) const LOG: u32 = 2;
const SET_MODE_FILTER: u32 = 1;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;

/// Makes a system call of this thread fail with an error number from now on; 0 if it worked.
pub(crate) fn deny(call: libc::c_long, errno: i32, flags: u32) -> Verdict {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let program = [
        // The number of the system call is the first word of struct seccomp_data.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, RET_ERRNO | errno as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program lives during the call.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    match Errno::result(set)? {
        0 => Ok(()),
        thread => Err(Failure::new(format!("thread {thread} has other filters"))),
    }
}

/// Promises that this thread gets no new privileges.
pub(crate) fn promise() -> Verdict {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// The error of a call without effect, whose number is that of a call to be denied.
pub(crate) fn error_of(call: libc::c_long) -> Option<i32> {
    // SAFETY: the calls that are tried here take no arguments, or refuse these.
    let result = unsafe { libc::syscall(call, -1, 0, 0, 0, 0) };
    Errno::result(result).err().map(|errno| errno as i32)
}
