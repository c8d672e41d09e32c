//! The programs that the kernel runs for each mapping of a task, and for each of its threads: iterators of BPF (`task_vma`, `task`,
//! Linux 5.12; of one process, 6.1).
//!
//! They are put together for the kernel that runs, whose types say where structures have their fields.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::places::{FIELDS, THREAD_FIELDS};
use crate::procfs::btf::{self, Btf};
use crate::sys::bpf;

/// What the program writes of each mapping.
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
    /// Its NUMA policy, where the kernel has such.
    pub policy: u64,
}

/// A step on the way to what the kernel has of a task, from the task's own structure on.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// To a field of the structure that was come to.
    In(&'static str, &'static str),
    /// To what is pointed to there.
    Behind,
    /// From a task to its `struct fpu`, which is right behind it, or in it before Linux 6.16.
    Fpu,
}

/// Something that the kernel has of a task.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    path: &'static [Step],
    bytes: u16,
}

impl Field {
    /// So many bytes at the end of a path.
    pub const fn new(path: &'static [Step], bytes: u16) -> Self {
        Self { path, bytes }
    }

    /// Bytes that are written of it: whole words.
    const fn length(&self) -> u16 {
        self.bytes.next_multiple_of(8)
    }

    /// Bytes that are written of several.
    pub(super) fn length_of(fields: &[Self]) -> usize {
        fields.iter().map(|field| usize::from(field.length())).sum()
    }
}

/// What is wanted beside the places.
#[derive(Debug)]
pub(super) struct Wanted<'f> {
    /// Of a task.
    pub task: &'f [Field],
    /// Of each of its threads.
    pub thread: &'f [Field],
}

/// The programs, loaded.
#[derive(Debug)]
pub(super) struct Walk {
    /// To iterate with, through the mappings of a task.
    pub mappings: OwnedFd,
    /// To iterate with, through the threads of a task. None where the kernel does not have all that is wanted: then nothing of it
    /// is told of mappings either, and none of their policies.
    pub threads: Option<OwnedFd>,
}

impl Walk {
    /// Loads the programs for a kernel with these types. Of a task or thread they write its places, and what is wanted; of each
    /// mapping, [`Raw`].
    pub(super) fn load(types: &[u8], wanted: &Wanted<'_>) -> Result<Self, String> {
        let types = Types::new(types, wanted).ok_or("the kernel's types are others than expected")?;
        let whole = types.mappings_program(wanted.task, true).zip(types.threads_program(wanted.thread));
        let (mappings, threads) = match whole {
            Some((mappings, threads)) => (Some(mappings), Some(threads)),
            None => (types.mappings_program(&[], false), None),
        };
        let mappings = mappings.ok_or("the kernel's structures are others than expected")?;
        let load =
            |name, walk, program: &[u64]| bpf::load_iterator(name, walk, program).map_err(|e| e.to_string());
        Ok(Self {
            mappings: load("stasis_vma", types.task_vma, &mappings)?,
            threads: threads.map(|threads| load("stasis_task", types.task, &threads)).transpose()?,
        })
    }
}

/// Where fields are.
#[derive(Debug)]
struct Types<'a> {
    btf: Btf<'a>,
    /// What walks through mappings, and through threads.
    task_vma: u32,
    task: u32,
    found: HashMap<&'static str, u32>,
}

impl<'a> Types<'a> {
    fn new(types: &'a [u8], wanted: &Wanted<'_>) -> Option<Self> {
        let mut names =
            vec!["vm_area_struct", "anon_vma", "bpf_iter_meta", "bpf_iter__task_vma", "bpf_iter__task"];
        let fields = FIELDS.iter().chain(THREAD_FIELDS).chain(wanted.task).chain(wanted.thread);
        for step in fields.flat_map(|field| field.path) {
            match step {
                Step::In(name, _) if !names.contains(name) => names.push(name),
                Step::Fpu if !names.contains(&"thread_struct") => names.push("thread_struct"),
                _ => {}
            }
        }
        let mut wanted =
            vec![btf::Wanted::Function("bpf_iter_task_vma"), btf::Wanted::Function("bpf_iter_task")];
        wanted.extend(names.iter().map(|name| btf::Wanted::Structure(name)));
        let mut btf = Btf::new(types)?;
        let mut found = btf.find(&wanted)?.into_iter();
        let (task_vma, task) = (found.next()?, found.next()?);
        Some(Self { btf, task_vma, task, found: names.into_iter().zip(found).collect() })
    }

    fn offset(&self, structure: &str, field: &str) -> Option<i32> {
        self.btf.offset_of(*self.found.get(structure)?, field)?.try_into().ok()
    }

    fn near(&self, structure: &str, field: &str) -> Option<i16> {
        self.offset(structure, field)?.try_into().ok()
    }

    /// How far each pointer on a path, and what is at its end, is from where the one before points to.
    fn offsets(&self, path: &[Step]) -> Option<Vec<i32>> {
        let mut offsets = vec![0];
        for step in path {
            let by = match step {
                Step::Behind => {
                    offsets.push(0);
                    continue;
                }
                Step::In(structure, field) => self.offset(structure, field)?,
                Step::Fpu => match self.offset("thread_struct", "fpu") {
                    Some(at) => self.offset("task_struct", "thread")? + at,
                    None => self.btf.size_of(*self.found.get("task_struct")?)?.try_into().ok()?,
                },
            };
            *offsets.last_mut()? += by;
        }
        Some(offsets)
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

impl Types<'_> {
    /// The program that is called for each mapping, and once with none.
    fn mappings_program(&self, others: &[Field], with_policy: bool) -> Option<Vec<u64>> {
        let begin = [
            mov(CONTEXT, 1),
            load_word(VMA, CONTEXT, self.near("bpf_iter__task_vma", "vma")?),
            load_word(SEQ, CONTEXT, self.near("bpf_iter__task_vma", "meta")?),
            load_word(OTHER, SEQ, self.near("bpf_iter_meta", "seq_num")?),
            load_word(SEQ, SEQ, self.near("bpf_iter_meta", "seq")?),
        ];
        let task = load_word(OTHER, CONTEXT, self.near("bpf_iter__task_vma", "task")?);
        let of_task = of_task(self, FIELDS.iter().chain(others))?;
        let of_mapping = of_mapping(self, with_policy)?;
        let program = [
            begin.as_slice(),
            &[jump_if_zero(VMA, distance(&[&[0; 3], &of_task, &of_mapping]))],
            &[jump_unless_zero(OTHER, distance(&[&[0; 2], &of_task]))],
            &[task, jump_if_zero(OTHER, distance(&[&of_task, &of_mapping]))],
            &of_task,
            &of_mapping,
            &[mov_number(0, 0), EXIT],
        ];
        Some(program.concat())
    }

    /// The program that is called for each thread, and once with none.
    fn threads_program(&self, others: &[Field]) -> Option<Vec<u64>> {
        let begin = [
            load_word(SEQ, 1, self.near("bpf_iter__task", "meta")?),
            load_word(SEQ, SEQ, self.near("bpf_iter_meta", "seq")?),
            load_word(OTHER, 1, self.near("bpf_iter__task", "task")?),
        ];
        let of_task = of_task(self, THREAD_FIELDS.iter().chain(others))?;
        let skip = [jump_if_zero(OTHER, distance(&[&of_task]))];
        Some([begin.as_slice(), &skip, &of_task, &[mov_number(0, 0), EXIT]].concat())
    }
}

fn distance(over: &[&[u64]]) -> i16 {
    over.iter().map(|part| part.len() as i16).sum()
}

/// Writes fields of the task.
fn of_task<'f>(types: &Types<'_>, fields: impl Iterator<Item = &'f Field>) -> Option<Vec<u64>> {
    let mut code = Vec::new();
    let mut filled = 0;
    for field in fields {
        let mut offsets = types.offsets(field.path)?;
        for at in (0..field.bytes).step_by(ROOM.into()) {
            let bytes = ROOM.min(field.bytes - at);
            if filled + bytes.next_multiple_of(8) > ROOM {
                code.extend(write(filled));
                filled = 0;
            }
            code.extend(read(&offsets, bytes, filled.cast_signed() - ROOM.cast_signed())?);
            filled += bytes.next_multiple_of(8);
            *offsets.last_mut()? += i32::from(bytes);
        }
    }
    code.extend(write(filled));
    Some(code)
}

/// Reads what is at the end of a path to a place on the stack. By way of nothing it reads nothing, which is 0.
fn read(offsets: &[i32], bytes: u16, to: i16) -> Option<Vec<u64>> {
    /// The third argument.
    const FROM: u64 = 3;
    let fetch = |bytes| [mov(1, FRAME), add(1, to.into()), mov_number(2, bytes), call(PROBE_READ_KERNEL)];
    let (last, others) = offsets.split_last()?;
    let mut code = vec![mov(FROM, OTHER)];
    for offset in others {
        code.push(add(FROM, *offset));
        code.extend(fetch(8));
        code.push(load_word(FROM, FRAME, to));
    }
    code.push(add(FROM, *last));
    if bytes < 8 {
        code.extend([mov_number(1, 0), store_word(to, 1)]);
    }
    code.extend(fetch(bytes.into()));
    Some(code)
}

/// Writes the first bytes of the room on the stack.
fn write(bytes: u16) -> [u64; 5] {
    let room = -i32::from(ROOM);
    [mov(1, SEQ), mov(2, FRAME), add(2, room), mov_number(3, bytes.into()), call(SEQ_WRITE)]
}

/// Writes what is told of a mapping.
fn of_mapping(types: &Types<'_>, with_policy: bool) -> Option<Vec<u64>> {
    const BEGIN: i16 = -(ROOM as i16);
    let copy = |from, at: i16, to: i16| [load_word(1, from, at), store_word(BEGIN + to, 1)];
    let of_vma = |name| types.near("vm_area_struct", name);
    // Where there is none to be told, any word will do.
    let policy = of_vma(if with_policy { "vm_policy" } else { "vm_start" })?;
    Some(
        [
            copy(VMA, of_vma("vm_start")?, 0).as_slice(),
            &copy(VMA, of_vma("vm_end")?, 8),
            &copy(VMA, of_vma("vm_flags")?, 16),
            &[load_word(OTHER, VMA, of_vma("anon_vma")?), store_word(BEGIN + 24, OTHER)],
            &copy(OTHER, types.near("anon_vma", "root")?, 32),
            &copy(OTHER, types.near("anon_vma", "num_children")?, 40),
            &copy(VMA, policy, 48),
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
