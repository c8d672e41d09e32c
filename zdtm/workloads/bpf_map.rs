//! Maps of BPF keep their elements, limits, name, and that they are frozen; two descriptors of one map stay of one map.

use std::fs::read_to_string;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

// enum bpf_cmd of include/uapi/linux/bpf.h.
const CREATE: i32 = 0;
const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;
const BY_ID: i32 = 14;
const FREEZE: i32 = 22;

/// Attributes as words of 32 bits.
fn bpf(command: i32, attributes: &mut [u32]) -> Result<i64, Errno> {
    let size = size_of_val(attributes);
    // SAFETY: the kernel reads the attributes, and what they point to, which callers keep alive.
    Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) })
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn element(command: i32, map: &OwnedFd, key: u32, value: &mut u64) -> Result<(), Errno> {
    let (key, value) = ((&raw const key).expose_provenance(), (&raw mut *value).expose_provenance());
    let halves = |address: usize| [address as u32, (address as u64 >> 32) as u32];
    let ([k0, k1], [v0, v1]) = (halves(key), halves(value));
    bpf(command, &mut [map.as_raw_fd() as u32, 0, k0, k1, v0, v1, 0, 0]).map(|_| ())
}

fn lookup(map: &OwnedFd, key: u32) -> Result<u64, Errno> {
    let mut value = 0;
    element(LOOKUP, map, key, &mut value)?;
    Ok(value)
}

fn described(map: &OwnedFd, key: &str) -> Result<String, Failure> {
    let text = read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(line.unwrap_or_default().trim().to_owned())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let is_hash = cx.args().first().is_some_and(|kind| kind == "hash");
    let name = u32::from_ne_bytes(*b"zdtm");
    // Type, sizes of keys and values, entries, flags, inner map, NUMA node, name.
    let map = owned(bpf(CREATE, &mut [if is_hash { 1 } else { 2 }, 4, 8, 1000, 0, 0, 0, name, 0, 0, 0])?);
    let key = |index: u32| if is_hash { index.wrapping_mul(0x9e37_79b9) } else { index };
    for index in 0..900 {
        element(UPDATE, &map, key(index), &mut (u64::from(index) << 33 | 7))?;
    }
    let id: u32 = described(&map, "map_id")?.parse()?;
    let read_only = owned(bpf(BY_ID, &mut [id, 0, 1 << 3])?);
    let frozen = owned(bpf(CREATE, &mut [2, 4, 8, 1, 0, 0, 0, name, 0, 0, 0])?);
    element(UPDATE, &frozen, 0, &mut 42)?;
    bpf(FREEZE, &mut [frozen.as_raw_fd() as u32])?;
    cx.barrier()?;
    for index in 0..900 {
        ensure_eq!(lookup(&map, key(index)), Ok(u64::from(index) << 33 | 7), "a value");
    }
    let absent = lookup(&map, key(950));
    ensure_eq!(absent, if is_hash { Err(Errno::ENOENT) } else { Ok(0) }, "a value that nobody set");
    element(UPDATE, &map, key(5), &mut 99)?;
    ensure_eq!(lookup(&read_only, key(5)), Ok(99), "the value through the other descriptor");
    ensure_eq!(element(UPDATE, &read_only, key(5), &mut 1), Err(Errno::EPERM), "a write through it");
    ensure_eq!(described(&map, "max_entries")?, "1000", "entries");
    ensure_eq!(lookup(&frozen, 0), Ok(42), "the frozen value");
    ensure!(element(UPDATE, &frozen, 0, &mut 1).is_err(), "the frozen map can be written");
    Ok(())
}
