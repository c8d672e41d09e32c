//! A process that changed its user keeps the dumpable flag that the change gave it.

use nix::errno::Errno;
use nix::unistd::{Uid, setresuid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let nobody = Uid::from_raw(65534);
    setresuid(nobody, nobody, nobody)?;
    let before = dumpable()?;
    cx.barrier()?;
    ensure_eq!(dumpable()?, before, "dumpable");
    Ok(())
}

fn dumpable() -> Result<i32, Failure> {
    // SAFETY: this operation takes no pointer. The wrapper of nix refuses to know the value 2.
    Ok(Errno::result(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) })?)
}
