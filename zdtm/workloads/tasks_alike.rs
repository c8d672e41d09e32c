//! Forks that are all alike, but for one thing each, keep that, and get nothing of the others'.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::unistd::getpid;
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Verdict};

use crate::file_locks::range;

/// Forks that have done nothing, before and between the others.
const PLAIN: usize = 3;
/// From `include/uapi/linux/prctl.h`.
const PR_GET_MEMORY_MERGE: i32 = 68;
/// From `include/uapi/linux/mempolicy.h`.
pub(crate) const MPOL_LOCAL: i64 = 4;
const MPOL_F_ADDR: i64 = 2;
const SECONDS: u64 = 100_000;

/// What all have from their parent.
struct Common {
    shared: File,
    spare: OwnedFd,
    page: i64,
    timer: [u64; 4],
    stack: [u64; 3],
}

type Deed = fn(&Common) -> Verdict;

pub(crate) fn call(number: i64, args: &[i64]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|at| args.get(at).copied().unwrap_or(0));
    // SAFETY: addresses are those of live variables, and nothing that the program uses is taken away.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

pub(crate) fn prctl(option: i32, value: i64) -> Result<i64, Errno> {
    call(libc::SYS_prctl, &[option.into(), value])
}

pub(crate) fn address<T>(of: &T) -> i64 {
    (&raw const *of).expose_provenance() as i64
}

/// The same of what the kernel fills in.
pub(crate) fn place<T>(of: &mut T) -> i64 {
    (&raw mut *of).expose_provenance() as i64
}

/// One thing for each fork.
const DEEDS: &[(&str, Deed)] = &[
    ("handler", |_| Ok(call(libc::SYS_rt_sigaction, &[12, address(&[1_u64, 0, 0, 0]), 0, 8]).map(drop)?)),
    ("alternate stack", |cx| Ok(call(libc::SYS_sigaltstack, &[address(&cx.stack)]).map(drop)?)),
    ("timer slack", |_| Ok(prctl(libc::PR_SET_TIMERSLACK, 123_456).map(drop)?)),
    ("keepcaps", |_| Ok(prctl(libc::PR_SET_KEEPCAPS, 1).map(drop)?)),
    ("subreaper", |_| Ok(prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)?)),
    ("death signal", |_| Ok(prctl(libc::PR_SET_PDEATHSIG, 10).map(drop)?)),
    ("huge pages", |_| Ok(prctl(libc::PR_SET_THP_DISABLE, 1).map(drop)?)),
    ("memory errors", |_| Ok(call(libc::SYS_prctl, &[libc::PR_MCE_KILL.into(), 1, 1]).map(drop)?)),
    ("merged pages", |_| Ok(prctl(PR_GET_MEMORY_MERGE - 1, 1).map(drop)?)),
    ("barriers", |_| Ok(call(libc::SYS_membarrier, &[1 << 4]).map(drop)?)),
    ("personality", |_| Ok(call(libc::SYS_personality, &[0x4_0000]).map(drop)?)),
    ("policy of memory", |_| Ok(call(libc::SYS_set_mempolicy, &[MPOL_LOCAL]).map(drop)?)),
    ("policy of a page", |cx| Ok(call(libc::SYS_mbind, &[cx.page, 4096, MPOL_LOCAL]).map(drop)?)),
    ("heap", |_| Ok(call(libc::SYS_brk, &[call(libc::SYS_brk, &[0])? + 4096]).map(drop)?)),
    ("locks what comes", |_| Ok(call(libc::SYS_mlockall, &[libc::MCL_FUTURE.into()]).map(drop)?)),
    ("real timer", |cx| Ok(call(libc::SYS_setitimer, &[0, address(&cx.timer)]).map(drop)?)),
    ("virtual timer", |cx| Ok(call(libc::SYS_setitimer, &[1, address(&cx.timer)]).map(drop)?)),
    ("profiling timer", |cx| Ok(call(libc::SYS_setitimer, &[2, address(&cx.timer)]).map(drop)?)),
    ("posix timer", |cx| {
        call(libc::SYS_timer_create, &[1, 0, place(&mut [0_u32])])?;
        Ok(call(libc::SYS_timer_settime, &[0, 0, address(&cx.timer)]).map(drop)?)
    }),
    ("pending signal", |_| {
        call(libc::SYS_rt_sigprocmask, &[libc::SIG_BLOCK.into(), address(&(1_u64 << 15)), 0, 8])?;
        Ok(call(libc::SYS_kill, &[getpid().as_raw().into(), 16]).map(drop)?)
    }),
    ("limit", |_| Ok(call(libc::SYS_prlimit64, &[0, 4, address(&[4096_u64, 8192])]).map(drop)?)),
    ("memory score", |_| Ok(fs::write("/proc/self/oom_score_adj", "321")?)),
    ("core dump filter", |_| Ok(fs::write("/proc/self/coredump_filter", "0x5a")?)),
    ("directory", |_| Ok(std::env::set_current_dir("/proc")?)),
    ("umask", |_| Ok(call(libc::SYS_umask, &[0o135]).map(drop)?)),
    ("closed on execve", |cx| {
        Ok(call(libc::SYS_fcntl, &[cx.spare.as_raw_fd().into(), 2, libc::FD_CLOEXEC.into()]).map(drop)?)
    }),
    ("closed", |cx| Ok(call(libc::SYS_close, &[cx.spare.as_raw_fd().into()]).map(drop)?)),
    ("lock", |cx| Ok(range(&cx.shared, libc::F_SETLK, libc::F_WRLCK, 5, 1)?)),
    ("lock of another byte", |cx| Ok(range(&cx.shared, libc::F_SETLK, libc::F_WRLCK, 7, 1)?)),
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(cx.path("file"));
    let protection = i64::from(libc::PROT_READ | libc::PROT_WRITE);
    let flags = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let common = Common {
        shared: open()?,
        spare: open()?.into(),
        page: call(libc::SYS_mmap, &[0, 4096, protection, flags, -1, 0])?,
        timer: [SECONDS, 0, SECONDS, 0],
        stack: [0x1000, 0, 0x10000],
    };
    let nothing: (&str, Deed) = ("nothing", |_| Ok(()));
    let plain = || std::iter::repeat_n(nothing, PLAIN);
    let deeds: Vec<(&str, Deed)> = plain().chain(DEEDS.iter().copied()).chain(plain()).collect();
    let mut children = Vec::new();
    for (number, (name, deed)) in deeds.iter().enumerate() {
        children.push(cx.child(|cx| {
            deed(&common)?;
            cx.post(&format!("done-{number}"))?;
            cx.wait_for("all-done")?;
            let before = state(&common)?;
            cx.post(&format!("ready-{number}"))?;
            cx.park()?;
            let after = state(&common)?;
            // Nobody's locks are gone before all have looked.
            cx.post(&format!("looked-{number}"))?;
            cx.wait_for("all-looked")?;
            for (before, after) in before.iter().zip(&after) {
                ensure_eq!(after, before, format!("the fork with: {name}"));
            }
            Ok(())
        })?);
    }
    (0..deeds.len()).try_for_each(|number| cx.wait_for(&format!("done-{number}")))?;
    cx.post("all-done")?;
    (0..deeds.len()).try_for_each(|number| cx.wait_for(&format!("ready-{number}")))?;
    cx.barrier()?;
    (0..deeds.len()).try_for_each(|number| cx.wait_for(&format!("looked-{number}")))?;
    cx.post("all-looked")?;
    children.into_iter().try_for_each(Child::join)
}

/// Everything that the deeds change, as the fork sees it.
fn state(common: &Common) -> Result<Vec<(&'static str, String)>, zdtm::workload::Failure> {
    let mut state = Vec::new();
    let mut handlers = Vec::new();
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        let mut action = [0_u64; 4];
        call(libc::SYS_rt_sigaction, &[signal.into(), 0, place(&mut action), 8])?;
        handlers.push(action);
    }
    state.push(("handlers", format!("{handlers:x?}")));
    let mut stack = [0_u64; 3];
    call(libc::SYS_sigaltstack, &[0, place(&mut stack)])?;
    state.push(("alternate stack", format!("{stack:x?}")));
    for (name, option) in [
        ("timer slack", libc::PR_GET_TIMERSLACK),
        ("securebits", libc::PR_GET_SECUREBITS),
        ("huge pages", libc::PR_GET_THP_DISABLE),
        ("memory errors", libc::PR_MCE_KILL_GET),
        ("merged pages", PR_GET_MEMORY_MERGE),
        ("dumpable", libc::PR_GET_DUMPABLE),
    ] {
        state.push((name, format!("{:?}", prctl(option, 0))));
    }
    for (name, option) in
        [("subreaper", libc::PR_GET_CHILD_SUBREAPER), ("death signal", libc::PR_GET_PDEATHSIG)]
    {
        let mut value = 0_i32;
        prctl(option, place(&mut value))?;
        state.push((name, value.to_string()));
    }
    state.push(("barriers", format!("{:?}", call(libc::SYS_membarrier, &[1 << 9]))));
    state.push(("personality", format!("{:?}", call(libc::SYS_personality, &[0xffff_ffff]))));
    let mut mode = 0_i32;
    let got = call(libc::SYS_get_mempolicy, &[place(&mut mode)]);
    state.push(("policy", format!("{got:?} {mode}")));
    let got = call(libc::SYS_get_mempolicy, &[place(&mut mode), 0, 0, common.page, MPOL_F_ADDR]);
    state.push(("policy of a page", format!("{got:?} {mode}")));
    state.push(("heap", format!("{:x?}", call(libc::SYS_brk, &[0]))));
    for which in 0..3 {
        let mut timer = [0_u64; 4];
        call(libc::SYS_getitimer, &[which, place(&mut timer)])?;
        state.push(("timer", format!("{} {}", timer[0], timer[2] > SECONDS / 2)));
    }
    let timers = fs::read_to_string("/proc/self/timers")?;
    state.push(("posix timers", timers));
    let mut pending = 0_u64;
    call(libc::SYS_rt_sigpending, &[place(&mut pending), 8])?;
    state.push(("pending", format!("{pending:x}")));
    state.push(("limits", fs::read_to_string("/proc/self/limits")?));
    for name in ["oom_score_adj", "coredump_filter"] {
        state.push((name, fs::read_to_string(format!("/proc/self/{name}"))?));
    }
    state.push(("directory", std::env::current_dir()?.display().to_string()));
    let mask = call(libc::SYS_umask, &[0])?;
    call(libc::SYS_umask, &[mask])?;
    state.push(("umask", mask.to_string()));
    state.push(("descriptor", format!("{:?}", call(libc::SYS_fcntl, &[common.spare.as_raw_fd().into(), 1]))));
    for l_start in [5, 7] {
        // Locks of others show, and one's own do not.
        let mut lock = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start, l_len: 1, l_pid: 0 };
        call(libc::SYS_fcntl, &[common.shared.as_raw_fd().into(), libc::F_GETLK.into(), place(&mut lock)])?;
        state.push(("lock", format!("{l_start}: {} of {}", lock.l_type, lock.l_pid)));
    }
    Ok(state)
}
