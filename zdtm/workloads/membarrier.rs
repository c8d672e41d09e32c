//! Registrations for memory barriers are kept: expedited barriers still work.

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict};

/// Commands of linux/membarrier.h: to register, and what is then allowed.
const PAIRS: [(i32, i32); 3] = [(1 << 4, 1 << 3), (1 << 6, 1 << 5), (1 << 2, 1 << 1)];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    for (register, _) in PAIRS {
        membarrier(register)?;
    }
    cx.barrier()?;
    for (_, use_it) in PAIRS {
        membarrier(use_it).map_err(|error| Failure::new(format!("command {use_it}: {error}")))?;
    }
    Ok(())
}

fn membarrier(command: i32) -> Verdict {
    // SAFETY: the call takes numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) })?;
    Ok(())
}
