//! `bpf(2)`, as far as it is about maps, and about programs that walk through what the kernel has.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;

// `enum bpf_cmd` of include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_MAP_GET_NEXT_KEY: i32 = 4;
const BPF_PROG_LOAD: i32 = 5;
const BPF_MAP_GET_FD_BY_ID: i32 = 14;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_MAP_FREEZE: i32 = 22;
const BPF_LINK_CREATE: i32 = 28;
const BPF_ITER_CREATE: i32 = 33;
/// Of `enum bpf_prog_type`.
const BPF_PROG_TYPE_TRACING: u32 = 26;
/// Of `enum bpf_attach_type`.
const BPF_TRACE_ITER: u32 = 28;

/// The first part of `struct bpf_map_info`, which later kernels have made longer.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MapInfo {
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub map_flags: u32,
    pub name: [u8; 16],
    pub ifindex: u32,
    pub vmlinux_value_type: u32,
    pub netns_dev: u64,
    pub netns_ino: u64,
    pub btf_id: u32,
    pub btf_key_type: u32,
    pub btf_value_type: u32,
    pub btf_vmlinux_id: u32,
    pub map_extra: u64,
}

/// What `BPF_MAP_CREATE` takes of `union bpf_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MapSpec {
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub map_flags: u32,
    pub inner_map_fd: u32,
    pub numa_node: u32,
    pub name: [u8; 16],
    pub ifindex: u32,
    pub btf_fd: u32,
    pub btf_key_type: u32,
    pub btf_value_type: u32,
    pub vmlinux_value_type: u32,
    pub map_extra: u64,
}

/// What calls about elements take.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What calls about whole objects take.
#[repr(C)]
struct Whole {
    fd_or_id: u32,
    next_id_or_len: u32,
    info_or_flags: u64,
}

/// What `BPF_PROG_LOAD` takes, as far as Linux 5.8.
#[repr(C)]
#[derive(Default)]
struct Program {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
    btf_fd: u32,
    function_info_size: u32,
    function_info: u64,
    function_info_count: u32,
    line_info_size: u32,
    line_info: u64,
    line_info_count: u32,
    attach_btf_id: u32,
    attach_program_fd: u32,
    padding: u32,
}

/// What `BPF_LINK_CREATE` takes for an iterator.
#[repr(C)]
struct Link {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_len: u32,
    padding: u32,
}

/// `union bpf_iter_link_info`, for one task.
#[repr(C)]
struct OneTask {
    tid: u32,
    pid: u32,
    pidfd: u32,
    padding: u32,
}

fn bpf<T>(call: &'static str, command: i32, attr: &mut T) -> Result<i32, SysError> {
    let attr: *mut T = attr;
    // SAFETY: the kernel reads the attribute, and follows addresses in it to buffers that the callers here keep alive.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 { Err(SysError::last(call)) } else { Ok(result as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What the kernel knows of a map.
pub fn info(map: BorrowedFd<'_>) -> Result<MapInfo, SysError> {
    let mut info = MaybeUninit::<MapInfo>::zeroed();
    let address = info.as_mut_ptr().expose_provenance() as u64;
    let length = size_of::<MapInfo>() as u32;
    let mut attr = Whole { fd_or_id: map.as_raw_fd() as u32, next_id_or_len: length, info_or_flags: address };
    bpf("bpf(BPF_OBJ_GET_INFO_BY_FD)", BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: plain numbers, zeroed and then filled in by the kernel.
    Ok(unsafe { info.assume_init() })
}

/// Another descriptor of a map; `BPF_F_RDONLY` and `BPF_F_WRONLY` limit it.
pub fn by_id(id: u32, open_flags: u32) -> Result<OwnedFd, SysError> {
    let mut attr = Whole { fd_or_id: id, next_id_or_len: 0, info_or_flags: open_flags.into() };
    bpf("bpf(BPF_MAP_GET_FD_BY_ID)", BPF_MAP_GET_FD_BY_ID, &mut attr).map(owned)
}

/// Makes a map.
pub fn create(spec: MapSpec) -> Result<OwnedFd, SysError> {
    bpf("bpf(BPF_MAP_CREATE)", BPF_MAP_CREATE, &mut { spec }).map(owned)
}

/// Lets nobody change a map by system calls any more.
pub fn freeze(map: BorrowedFd<'_>) -> Result<(), SysError> {
    let mut attr = Whole { fd_or_id: map.as_raw_fd() as u32, next_id_or_len: 0, info_or_flags: 0 };
    bpf("bpf(BPF_MAP_FREEZE)", BPF_MAP_FREEZE, &mut attr).map(|_| ())
}

/// The key after this one, of the same size, or the first; nothing behind the last.
pub fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, size: usize) -> Result<Option<Vec<u8>>, SysError> {
    let mut next = vec![0_u8; size];
    let key = key.map_or(0, |key| key.as_ptr().expose_provenance() as u64);
    let value = next.as_mut_ptr().expose_provenance() as u64;
    let mut attr = Element { map_fd: map.as_raw_fd() as u32, pad: 0, key, value, flags: 0 };
    match bpf("bpf(BPF_MAP_GET_NEXT_KEY)", BPF_MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(Some(next)),
        Err(SysError { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The value of a key, of this size; none if the key is not there.
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], size: usize) -> Result<Option<Vec<u8>>, SysError> {
    let mut found = vec![0_u8; size];
    let value = found.as_mut_ptr().expose_provenance() as u64;
    let key = key.as_ptr().expose_provenance() as u64;
    let mut attr = Element { map_fd: map.as_raw_fd() as u32, pad: 0, key, value, flags: 0 };
    match bpf("bpf(BPF_MAP_LOOKUP_ELEM)", BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(found)),
        Err(SysError { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets the value of a key.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> Result<(), SysError> {
    let (key, value) = (key.as_ptr().expose_provenance() as u64, value.as_ptr().expose_provenance() as u64);
    let mut attr = Element { map_fd: map.as_raw_fd() as u32, pad: 0, key, value, flags: 0 };
    bpf("bpf(BPF_MAP_UPDATE_ELEM)", BPF_MAP_UPDATE_ELEM, &mut attr).map(|_| ())
}

/// Loads a program for an iterator, of which `walk` is the number in the kernel's BTF; each instruction is a word.
pub fn load_iterator(name: &'static str, walk: u32, instructions: &[u64]) -> Result<OwnedFd, SysError> {
    // It calls what only programs may call that are free in this sense, as this one is.
    let license = c"Dual MIT/GPL";
    let mut program = Program {
        kind: BPF_PROG_TYPE_TRACING,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        expected_attach_type: BPF_TRACE_ITER,
        attach_btf_id: walk,
        ..Program::default()
    };
    program.name.iter_mut().zip(name.bytes().take(15)).for_each(|(to, byte)| *to = byte);
    bpf("bpf(BPF_PROG_LOAD)", BPF_PROG_LOAD, &mut program).map(owned)
}

/// Has a program walk through what belongs to one process (Linux 6.1); what it writes can be read.
pub fn iterate(program: BorrowedFd<'_>, pidfd: BorrowedFd<'_>) -> Result<File, SysError> {
    let task = OneTask { tid: 0, pid: 0, pidfd: pidfd.as_raw_fd() as u32, padding: 0 };
    let mut link = Link {
        program_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        info: (&raw const task).expose_provenance() as u64,
        info_len: size_of::<OneTask>() as u32,
        padding: 0,
    };
    let link = owned(bpf("bpf(BPF_LINK_CREATE)", BPF_LINK_CREATE, &mut link)?);
    let mut attr = Whole { fd_or_id: link.as_raw_fd() as u32, next_id_or_len: 0, info_or_flags: 0 };
    bpf("bpf(BPF_ITER_CREATE)", BPF_ITER_CREATE, &mut attr).map(|fd| owned(fd).into())
}
