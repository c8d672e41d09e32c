//! Resource limits, soft and hard, are kept.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

const LIMITS: [(Resource, u64, u64); 6] = [
    (Resource::RLIMIT_NOFILE, 123, 456),
    (Resource::RLIMIT_CORE, 0, 0),
    (Resource::RLIMIT_FSIZE, 1 << 30, 1 << 40),
    (Resource::RLIMIT_NPROC, 5000, 6000),
    (Resource::RLIMIT_SIGPENDING, 77, 88),
    (Resource::RLIMIT_MSGQUEUE, 1000, 2000),
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    for (resource, soft, hard) in LIMITS {
        setrlimit(resource, soft, hard)?;
    }
    cx.barrier()?;
    for (resource, soft, hard) in LIMITS {
        ensure_eq!(getrlimit(resource)?, (soft, hard), format!("{resource:?}"));
    }
    Ok(())
}
