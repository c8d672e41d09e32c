//! Memory that was locked by root stays locked though the process has become somebody else.

use std::fs;

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Uid, setresuid};
use zdtm::ensure;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut mapping = Mapping::anonymous(16 * PAGE, READ_WRITE)?;
    mapping.bytes_mut().copy_from_slice(&pattern(1, 16 * PAGE));
    // SAFETY: locking changes no contents.
    Errno::result(unsafe { libc::mlock(mapping.start.as_ptr(), mapping.length) })?;
    let nobody = Uid::from_raw(65534);
    setresuid(nobody, nobody, nobody)?;
    // Otherwise not even the process itself may look at its own mappings.
    set_dumpable(true)?;
    cx.barrier()?;
    check_pattern(mapping.bytes(), 1, "contents")?;
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let head = format!("{:x}-", mapping.address());
    let flags =
        smaps.lines().skip_while(|line| !line.starts_with(&head)).find(|line| line.starts_with("VmFlags"));
    ensure!(flags.is_some_and(|flags| flags.contains(" lo")), "no longer locked: {flags:?}");
    Ok(())
}
