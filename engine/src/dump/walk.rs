//! The program that the kernel runs for each mapping of a task: an iterator of BPF (`task_vma`, Linux 5.12).
//!
//! It is put together for the kernel that runs, whose types say where structures have their fields.

use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::places::{FIELDS, Field};
use crate::procfs::btf::{Btf, Wanted};
use crate::sys::bpf;

/// What the program writes of each mapping; before the first of them comes what it writes of the task, its places.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Raw {
    pub start: u64,
    pub end: u64,
    pub flags: u64,
    /// The kernel's `anon_vma` of the mapping, if it ever had pages of its own; what that descends from by forks; and how
    /// many descend from it, itself included.
    pub anon_vma: u64,
    pub root: u64,
    pub descendants: u64,
}

/// Loads the program, for a kernel with these types.
pub(super) fn load(types: &[u8]) -> Result<OwnedFd, String> {
    let (walk, instructions) = program(types).ok_or("the kernel's types are others than expected")?;
    bpf::load_iterator("stasis_vma", walk, &instructions).map_err(|e| e.to_string())
}

/// Structures of which fields are read.
const STRUCTURES: [&str; 12] = [
    "vm_area_struct",
    "anon_vma",
    "task_struct",
    "mm_struct",
    "signal_struct",
    "files_struct",
    "fdtable",
    "fs_struct",
    "cred",
    "pid",
    "bpf_iter_meta",
    "bpf_iter__task_vma",
];

/// Where fields are.
#[derive(Debug)]
struct Types<'a> {
    btf: Btf<'a>,
    walk: u32,
    found: [u32; STRUCTURES.len()],
}

impl<'a> Types<'a> {
    fn new(types: &'a [u8]) -> Option<Self> {
        const WANTED: usize = STRUCTURES.len() + 1;
        let mut wanted = [Wanted::Function("bpf_iter_task_vma"); WANTED];
        for (wanted, name) in wanted.iter_mut().skip(1).zip(STRUCTURES) {
            *wanted = Wanted::Structure(name);
        }
        let mut btf = Btf::new(types)?;
        let found: [u32; WANTED] = btf.find(wanted)?;
        let (walk, found) = found.split_first()?;
        let found = *found.first_chunk()?;
        Some(Self { btf, walk: *walk, found })
    }

    fn offset(&self, structure: &str, field: &str) -> Option<i32> {
        let at = STRUCTURES.iter().position(|name| *name == structure)?;
        self.btf.offset_of(*self.found.get(at)?, field)?.try_into().ok()
    }

    fn near(&self, structure: &str, field: &str) -> Option<i16> {
        self.offset(structure, field)?.try_into().ok()
    }
}

// Registers; these keep their values when a function is called.
const CONTEXT: u64 = 6;
const VMA: u64 = 7;
const SEQ: u64 = 8;
/// First the number of the mapping, then the task, in the end an `anon_vma`.
const OTHER: u64 = 9;
const FRAME: u64 = 10;
/// Bytes on the stack where what is written is put together.
const ROOM: u16 = 256;

// Functions that programs may call (`include/uapi/linux/bpf.h`).
const PROBE_READ_KERNEL: u64 = 113;
const SEQ_WRITE: u64 = 127;

/// The number of what walks, and the program, which is called for each mapping, and once with none.
fn program(types: &[u8]) -> Option<(u32, Vec<u64>)> {
    let types = Types::new(types)?;
    let begin = [
        mov(CONTEXT, 1),
        load_word(VMA, CONTEXT, types.near("bpf_iter__task_vma", "vma")?),
        load_word(SEQ, CONTEXT, types.near("bpf_iter__task_vma", "meta")?),
        load_word(OTHER, SEQ, types.near("bpf_iter_meta", "seq_num")?),
        load_word(SEQ, SEQ, types.near("bpf_iter_meta", "seq")?),
    ];
    let task = load_word(OTHER, CONTEXT, types.near("bpf_iter__task_vma", "task")?);
    let (places, mapping) = (places(&types)?, mapping(&types)?);
    let program = [
        begin.as_slice(),
        &[jump_if_zero(VMA, distance(&[&[0; 3], &places, &mapping]))],
        &[jump_unless_zero(OTHER, distance(&[&[0; 2], &places]))],
        &[task, jump_if_zero(OTHER, distance(&[&places, &mapping]))],
        &places,
        &mapping,
        &[mov_number(0, 0), EXIT],
    ];
    Some((types.walk, program.concat()))
}

fn distance(over: &[&[u64]]) -> i16 {
    over.iter().map(|part| part.len() as i16).sum()
}

/// Writes the places of the task.
fn places(types: &Types<'_>) -> Option<Vec<u64>> {
    let mut code = Vec::new();
    let mut filled = 0;
    for field in FIELDS {
        let bytes = field.bytes.next_multiple_of(8);
        if filled + bytes > ROOM {
            code.extend(write(filled));
            filled = 0;
        }
        code.extend(read(types, field, filled as i16 - ROOM as i16)?);
        filled += bytes;
    }
    code.extend(write(filled));
    Some(code)
}

/// Reads a field to a place on the stack. By way of nothing it reads nothing, which is 0.
fn read(types: &Types<'_>, field: &Field, to: i16) -> Option<Vec<u64>> {
    /// The third argument.
    const FROM: u64 = 3;
    let fetch = |bytes| [mov(1, FRAME), add(1, to.into()), mov_number(2, bytes), call(PROBE_READ_KERNEL)];
    let mut offsets = Vec::new();
    for (structure, name) in field.path {
        offsets.push(types.offset(structure, name)?);
    }
    offsets.extend(field.behind.map(u32::cast_signed));
    let (last, others) = offsets.split_last()?;
    let mut code = vec![mov(FROM, OTHER)];
    for offset in others {
        code.push(add(FROM, *offset));
        code.extend(fetch(8));
        code.push(load_word(FROM, FRAME, to));
    }
    code.push(add(FROM, *last));
    if field.bytes < 8 {
        code.extend([mov_number(1, 0), store_word(to, 1)]);
    }
    code.extend(fetch(field.bytes.into()));
    Some(code)
}

/// Writes the first bytes of the room on the stack.
fn write(bytes: u16) -> [u64; 5] {
    let room = -i32::from(ROOM);
    [mov(1, SEQ), mov(2, FRAME), add(2, room), mov_number(3, bytes.into()), call(SEQ_WRITE)]
}

/// Writes what is told of a mapping.
fn mapping(types: &Types<'_>) -> Option<Vec<u64>> {
    const BEGIN: i16 = -(ROOM as i16);
    let copy = |from, at: i16, to: i16| [load_word(1, from, at), store_word(BEGIN + to, 1)];
    let of_vma = |name| types.near("vm_area_struct", name);
    Some(
        [
            copy(VMA, of_vma("vm_start")?, 0).as_slice(),
            &copy(VMA, of_vma("vm_end")?, 8),
            &copy(VMA, of_vma("vm_flags")?, 16),
            &[load_word(OTHER, VMA, of_vma("anon_vma")?), store_word(BEGIN + 24, OTHER)],
            &copy(OTHER, types.near("anon_vma", "root")?, 32),
            &copy(OTHER, types.near("anon_vma", "num_children")?, 40),
            &write(size_of::<Raw>() as u16),
        ]
        .concat(),
    )
}

// Instructions (Documentation/bpf/standardization/instruction-set.rst): an operation, two registers, an offset, a number.
const EXIT: u64 = 0x95;

fn mov(to: u64, from: u64) -> u64 {
    0xbf | to << 8 | from << 12
}

fn mov_number(to: u64, number: u32) -> u64 {
    0xb7 | to << 8 | u64::from(number) << 32
}

fn add(to: u64, number: i32) -> u64 {
    0x07 | to << 8 | u64::from(number.cast_unsigned()) << 32
}

fn load_word(to: u64, from: u64, offset: i16) -> u64 {
    0x79 | to << 8 | from << 12 | u64::from(offset.cast_unsigned()) << 16
}

/// To the stack.
fn store_word(offset: i16, from: u64) -> u64 {
    0x7b | FRAME << 8 | from << 12 | u64::from(offset.cast_unsigned()) << 16
}

fn jump_if_zero(register: u64, over: i16) -> u64 {
    0x15 | register << 8 | u64::from(over.cast_unsigned()) << 16
}

fn jump_unless_zero(register: u64, over: i16) -> u64 {
    0x55 | register << 8 | u64::from(over.cast_unsigned()) << 16
}

fn call(helper: u64) -> u64 {
    0x85 | helper << 32
}
