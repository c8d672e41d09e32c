//! Rights for protection keys (PKRU) are those of each thread.

use std::arch::asm;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Thread, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let threads: Vec<Thread> = (1..4_u32)
        .map(|number| {
            cx.thread(move |cx| {
                // Nobody has memory with these keys, so that nobody is kept from any.
                let rights = 0x5555_5550 ^ number << 28;
                set(rights);
                cx.post(&format!("set-{number}"))?;
                cx.park()?;
                ensure_eq!(get(), rights, "rights");
                Ok(())
            })
        })
        .collect();
    (1..4).try_for_each(|number| cx.wait_for(&format!("set-{number}")))?;
    cx.barrier()?;
    threads.into_iter().try_for_each(Thread::join)
}

fn get() -> u32 {
    let rights;
    // SAFETY: the entry needs protection keys; the instruction reads a register.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack)) };
    rights
}

fn set(rights: u32) {
    // SAFETY: the entry needs protection keys; key 0, that of all memory, is accessible as before.
    unsafe { asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack)) };
}
