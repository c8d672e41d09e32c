//! The raw capability calls that workloads use.

use nix::errno::Errno;
use zdtm::workload::{Failure, status_line};

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const VERSION: u32 = 0x2008_0522;

/// Numbers of linux/capability.h.
pub(crate) const CHOWN: u32 = 0;
pub(crate) const KILL: u32 = 5;
pub(crate) const NET_RAW: u32 = 13;
pub(crate) const SYS_CHROOT: u32 = 18;

pub(crate) const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// The three sets of the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

/// All five sets of the calling thread, as `status` shows them.
pub(crate) fn shown() -> Result<Vec<String>, Failure> {
    SETS.iter().map(|key| status_line("/proc/thread-self/status", key)).collect()
}

pub(crate) fn get() -> Result<Sets, Failure> {
    let hex = |key: &str| -> Result<u64, Failure> {
        Ok(u64::from_str_radix(&status_line("/proc/thread-self/status", key)?, 16)?)
    };
    Ok(Sets { effective: hex("CapEff")?, permitted: hex("CapPrm")?, inheritable: hex("CapInh")? })
}

pub(crate) fn set(sets: Sets) -> Result<(), Failure> {
    let header = Header { version: VERSION, pid: 0 };
    let half =
        |shift: u32| [sets.effective, sets.permitted, sets.inheritable].map(|set| (set >> shift) as u32);
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout of linux/capability.h for version 3.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}
