//! Threads count for each processor in restartable sequences, and no count is lost. One that is dumped inside of a
//! sequence leaves it by its abort handler.

use std::arch::asm;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use zdtm::workload::{Context, Thread, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::rseq00;

/// Pauses between reading a count and writing it, for those that count.
const SHORT: u64 = 300;
/// For one that is to be in its sequence when it is dumped: it would get to the end in about an hour.
const LONG: u64 = 1 << 40;

static COUNTS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
static ADDED: AtomicU64 = AtomicU64::new(0);
static ABORTED: AtomicU64 = AtomicU64::new(0);
static GO: AtomicBool = AtomicBool::new(false);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut threads: Vec<Thread> = (0..2).map(|_| cx.thread(count)).collect();
    threads.push(cx.thread(stay));
    while ADDED.load(Ordering::Relaxed) < 1000 {
        std::thread::yield_now();
    }
    cx.barrier()?;
    let (added, aborted) = (ADDED.load(Ordering::Relaxed), ABORTED.load(Ordering::Relaxed));
    while ADDED.load(Ordering::Relaxed) < added + 1000 || ABORTED.load(Ordering::Relaxed) == aborted {
        ensure!(!threads.iter().any(Thread::is_finished), "a thread ended");
        std::thread::yield_now();
    }
    GO.store(true, Ordering::Relaxed);
    threads.into_iter().try_for_each(Thread::join)?;
    let sum: u64 = COUNTS.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    ensure_eq!(sum, ADDED.load(Ordering::Relaxed), "the sum of the counts");
    Ok(())
}

fn count(_: &Context) -> Verdict {
    let area = rseq00::area()?;
    while !GO.load(Ordering::Relaxed) {
        if add_one(area, SHORT) {
            ADDED.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Is always inside of a sequence, and leaves it by the abort handler only.
fn stay(_: &Context) -> Verdict {
    let area = rseq00::area()?;
    while !GO.load(Ordering::Relaxed) {
        ensure!(!add_one(area, LONG), "a long sequence got to its end");
        ABORTED.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Adds one to the count of this processor, in one sequence; false if the sequence was aborted.
fn add_one(area: *const u32, pauses: u64) -> bool {
    let aborted: u64;
    // SAFETY: the area is this thread's. The sequence has one write, its last instruction, to a count. All registers are
    // declared, and the abort handler needs none of them.
    unsafe {
        asm!(
            // struct rseq_cs of linux/rseq.h: version, flags, start, length, abort handler.
            ".pushsection .data.rel.ro, \"aw\", @progbits", ".balign 32",
            "22: .long 0, 0", ".quad 23f, 24f-23f, 25f",
            ".popsection",
            "lea {value}, [rip + 22b]", "mov [{area}+8], {value}",
            "23: mov {cpu:e}, [{area}+4]", "mov {value}, [{counts}+{cpu}*8]",
            "26: pause", "dec {pauses}", "jnz 26b",
            "inc {value}", "mov [{counts}+{cpu}*8], {value}",
            "24: xor {aborted:e}, {aborted:e}", "jmp 27f",
            // The signature that glibc registers.
            ".long 0x53053053",
            "25: mov {aborted:e}, 1",
            "27:",
            area = in(reg) area, counts = in(reg) COUNTS.as_ptr(), pauses = inout(reg) pauses => _,
            value = out(reg) _, cpu = out(reg) _, aborted = out(reg) aborted,
        );
    }
    aborted == 0
}
