//! Settings of threads that only `prctl(2)` and the like tell: speculation, machine checks, merging of pages, memory that
//! may not become executable, reset-on-fork, SCHED_DEADLINE, and a name that is not UTF-8.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// From `include/uapi/linux/prctl.h` and `sched.h`.
const PR_GET_SPECULATION_CTRL: i32 = 52;
const PR_SET_SPECULATION_CTRL: i32 = 53;
const PR_SET_MDWE: i32 = 65;
const PR_SET_MEMORY_MERGE: i32 = 67;
const PR_SPEC_DISABLE: i32 = 4;
const SCHED_DEADLINE: u32 = 6;
const SCHED_FLAG_RESET_ON_FORK: u64 = 1;

const NAME: &[u8; 8] = b"na\xffme\x80 \0";

fn get(option: i32) -> i32 {
    // SAFETY: the options that are asked for take numbers only.
    unsafe { libc::prctl(option, 0, 0, 0, 0) }
}

fn set(option: i32, a: i32, b: i32) -> Result<(), Failure> {
    // SAFETY: the options that are set take numbers only.
    Errno::result(unsafe { libc::prctl(option, a, b, 0, 0) })?;
    Ok(())
}

fn scheduling() -> Result<libc::sched_attr, Failure> {
    // SAFETY: plain numbers; zero is a valid value of each.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most that many bytes.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) })?;
    Ok(attr)
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut attr = scheduling()?;
    attr.sched_flags = SCHED_FLAG_RESET_ON_FORK;
    if cx.args().iter().any(|arg| arg == "deadline") {
        attr.sched_policy = SCHED_DEADLINE;
        (attr.sched_runtime, attr.sched_deadline, attr.sched_period) = (2_000_000, 30_000_000, 90_000_000);
    }
    // SAFETY: the attributes live during the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })?;
    // Not every processor lets a thread choose.
    let chosen = set(PR_SET_SPECULATION_CTRL, 0, PR_SPEC_DISABLE).is_ok();
    let speculation = get(PR_GET_SPECULATION_CTRL);
    set(libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET, 1)?;
    let merge = set(PR_SET_MEMORY_MERGE, 1, 0).is_ok();
    set(PR_SET_MDWE, 1, 0)?;
    // SAFETY: the name is terminated.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NAME, NAME.as_ptr()) })?;
    cx.barrier()?;
    let now = scheduling()?;
    ensure_eq!(
        (now.sched_policy, now.sched_flags),
        (attr.sched_policy, attr.sched_flags),
        "policy and flags"
    );
    let times = |attr: libc::sched_attr| (attr.sched_runtime, attr.sched_deadline, attr.sched_period);
    if attr.sched_policy == SCHED_DEADLINE {
        ensure_eq!(times(now), times(attr), "times of SCHED_DEADLINE");
    }
    ensure_eq!(get(PR_GET_SPECULATION_CTRL), speculation, format!("speculation (chosen: {chosen})"));
    ensure_eq!(get(libc::PR_MCE_KILL_GET), 1, "what a machine check does");
    ensure_eq!(get(PR_SET_MEMORY_MERGE + 1), i32::from(merge), "merging of pages");
    ensure_eq!(get(PR_SET_MDWE + 1), 1, "memory that may not become executable");
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes 16 bytes.
    Errno::result(unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) })?;
    ensure_eq!(name.starts_with(NAME), true, "its name");
    Ok(())
}
