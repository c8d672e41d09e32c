//! Names of mappings, the nodes that their pages come from, those of each thread, and seals are as they were.

use std::num::NonZeroUsize;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

// From `include/uapi/linux/prctl.h` and `include/uapi/linux/mempolicy.h`.
const PR_SET_VMA: i32 = 0x5356_4d41;
const MPOL_PREFERRED: i32 = 1;
const MPOL_BIND: i32 = 2;
const MPOL_INTERLEAVE: i32 = 3;
const MPOL_F_ADDR: usize = 2;
/// `mseal(2)`, Linux 6.10.
const SYS_MSEAL: i64 = 462;
const NODES: usize = 1024;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let named = Mapping::apart(2 * PAGE)?;
    let shared = shared()?;
    // Not every kernel is built with names (`CONFIG_ANON_VMA_NAME`).
    let has_names = name(named, c"of one's own").is_ok() && name(shared, c"shared").is_ok();
    let [bound, interleaved] = [Mapping::apart(2 * PAGE)?, Mapping::apart(2 * PAGE)?];
    bind(bound, MPOL_BIND)?;
    bind(interleaved, MPOL_INTERLEAVE)?;
    let sealed = Mapping::apart(PAGE)?;
    // SAFETY: nobody changes the mapping any more.
    Errno::result(unsafe { libc::syscall(SYS_MSEAL, sealed.start.as_ptr(), PAGE, 0) })?;
    set_own(MPOL_BIND)?;
    let thread = cx.thread(|cx| {
        set_own(MPOL_PREFERRED)?;
        cx.post("preferred")?;
        cx.park()?;
        ensure_eq!(policy(None)?, (MPOL_PREFERRED, 1), "the other thread's policy");
        Ok(())
    });
    cx.wait_for("preferred")?;

    cx.barrier()?;
    thread.join()?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (mapping, name) in [(named, "[anon:of one's own]"), (shared, "[anon_shmem:shared]")] {
        let start = format!("{:x}-", mapping.address());
        let line = maps.lines().find(|line| line.starts_with(&start));
        ensure!(!has_names || line.is_some_and(|line| line.ends_with(name)), "no {name} in {line:?}");
    }
    ensure_eq!(policy(Some(bound))?, (MPOL_BIND, 1), "the policy of what was bound to node 0");
    ensure_eq!(policy(Some(interleaved))?, (MPOL_INTERLEAVE, 1), "the policy of what is interleaved");
    ensure_eq!(policy(None)?, (MPOL_BIND, 1), "the thread's own policy");
    let changed = sealed.protect(ProtFlags::PROT_READ);
    ensure!(changed.is_err(), "the sealed mapping was changed");
    Ok(())
}

fn shared() -> Result<Mapping, Failure> {
    let length = NonZeroUsize::new(PAGE).ok_or_else(|| Failure::new("an empty mapping"))?;
    // SAFETY: the kernel picks the address, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, length, READ_WRITE, MapFlags::MAP_SHARED) }?;
    Ok(Mapping { start, length: PAGE })
}

fn name(mapping: Mapping, name: &std::ffi::CStr) -> Verdict {
    let (start, name) = (mapping.start.as_ptr(), name.as_ptr());
    // SAFETY: the kernel copies the name.
    let named = unsafe { libc::prctl(PR_SET_VMA, 0, start, mapping.length, name) };
    Ok(Errno::result(named).map(drop)?)
}

fn bind(mapping: Mapping, mode: i32) -> Verdict {
    let (start, nodes) = (mapping.start.as_ptr(), 1_u64);
    // SAFETY: the kernel reads the nodes, of which there is one word.
    let bound =
        unsafe { libc::syscall(libc::SYS_mbind, start, mapping.length, mode, &raw const nodes, 64_usize, 0) };
    Ok(Errno::result(bound).map(drop)?)
}

fn set_own(mode: i32) -> Verdict {
    let nodes = 1_u64;
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, &raw const nodes, 64_usize) };
    Ok(Errno::result(set).map(drop)?)
}

/// The policy of a mapping, or of the thread, and the first 64 nodes of it.
fn policy(mapping: Option<Mapping>) -> Result<(i32, u64), Failure> {
    let mut mode = 0_i32;
    let mut nodes = [0_u64; NODES / 64];
    let address = mapping.map_or(0, |mapping| mapping.address());
    let flags = if mapping.is_some() { MPOL_F_ADDR } else { 0 };
    // SAFETY: the kernel writes the mode, and as many nodes as there is room for.
    let got = unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), NODES, address, flags)
    };
    Errno::result(got)?;
    Ok((mode, nodes[0]))
}
