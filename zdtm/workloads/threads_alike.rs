//! Threads that are all alike, but for one thing each, keep that, and get nothing of the others'.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Thread, Verdict};

use crate::tasks_alike::{MPOL_LOCAL, address, call, place, prctl};

/// Threads with each of the deeds, among as many that have done nothing.
const ROUNDS: usize = 6;

type Deed = fn(usize) -> Verdict;

/// What a thread does, which gets its number to make it another thing for each.
const DEEDS: &[Deed] = &[
    |_| Ok(()),
    |number| {
        let stack = [0x1000 * number as u64, 0, 0x10000];
        Ok(call(libc::SYS_sigaltstack, &[address(&stack)]).map(drop)?)
    },
    |number| Ok(prctl(libc::PR_SET_TIMERSLACK, 100_000 + number as i64).map(drop)?),
    |_| Ok(prctl(libc::PR_SET_KEEPCAPS, 1).map(drop)?),
    |number| {
        // Their parent is outside, and may die.
        let harmless = if number.is_multiple_of(3) { libc::SIGURG } else { libc::SIGWINCH };
        Ok(prctl(libc::PR_SET_PDEATHSIG, harmless.into()).map(drop)?)
    },
    |_| Ok(call(libc::SYS_prctl, &[libc::PR_MCE_KILL.into(), 1, 1]).map(drop)?),
    |_| Ok(call(libc::SYS_set_mempolicy, &[MPOL_LOCAL]).map(drop)?),
    |number| {
        Ok(call(libc::SYS_sigaltstack, &[address(&[0x2000_u64, 1 << 31, 0x8000 + number as u64])])
            .map(drop)?)
    },
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let count = ROUNDS * DEEDS.len();
    let thread = |number: usize| -> Result<Thread, Failure> {
        let own = format!("ready-{number}");
        let thread = cx.thread(move |cx| {
            if let Some(deed) = DEEDS.get(number % DEEDS.len()) {
                deed(number)?;
            }
            let before = state()?;
            cx.post(&own)?;
            cx.park()?;
            let after = state()?;
            ensure_eq!(after, before, format!("thread {number}"));
            Ok(())
        });
        Ok(thread)
    };
    let threads: Vec<Thread> = (0..count).map(thread).collect::<Result<_, _>>()?;
    (0..count).try_for_each(|number| cx.wait_for(&format!("ready-{number}")))?;
    cx.barrier()?;
    // A thread that ends wakes whoever joins it by the word whose address the kernel has of it.
    threads.into_iter().try_for_each(Thread::join)
}

/// What the deeds change, as the thread sees it.
fn state() -> Result<String, Errno> {
    let mut stack = [0_u64; 3];
    call(libc::SYS_sigaltstack, &[0, place(&mut stack)])?;
    let mut values = Vec::new();
    for option in [libc::PR_GET_TIMERSLACK, libc::PR_GET_SECUREBITS, libc::PR_MCE_KILL_GET] {
        values.push(prctl(option, 0)?);
    }
    let [mut signal, mut mode] = [0_i32; 2];
    prctl(libc::PR_GET_PDEATHSIG, place(&mut signal))?;
    call(libc::SYS_get_mempolicy, &[place(&mut mode)])?;
    let mut address = 0_u64;
    prctl(libc::PR_GET_TID_ADDRESS, place(&mut address))?;
    Ok(format!("{stack:x?} {values:?} {signal} {mode} {address:x}"))
}
