//! Building batches for the agent, and reading what it answers.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use nix::errno::Errno;
use parasite::abi::{ArgKind, Call, Header, MAX_CALLS, MAX_FDS, MAX_MESSAGE, Reply};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::SysError;

/// Names a call of a batch, to use its result later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallId(usize);

/// Room in a batch's data where the kernel writes a `T`, which comes back with the reply.
#[derive(Debug)]
pub struct Output<T> {
    offset: usize,
    len: usize,
    _type: PhantomData<T>,
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Output<T> {}

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// A number, or an address in the target.
    Value(u64),
    /// Bytes that travel with the batch, by offset.
    Input(usize),
    /// Bytes that come back, by offset.
    Output(usize),
    /// The result of an earlier call.
    Result(CallId),
    /// The number in the target of a descriptor that travels with the batch.
    Fd(usize),
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::Value(value as u64)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Value(u64::from(value))
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Self::Value(value as u64)
    }
}

impl From<CallId> for Arg {
    fn from(value: CallId) -> Self {
        Self::Result(value)
    }
}

impl<T> From<Output<T>> for Arg {
    fn from(value: Output<T>) -> Self {
        Self::Output(value.offset)
    }
}

/// A word of a struct that the kernel reads.
#[derive(Debug, Clone, Copy)]
pub enum Word {
    /// As it is.
    Value(u64),
    /// The address, in the target, of other bytes of the batch ([`Arg::Input`]).
    Pointer(Arg),
}

/// Makes the arguments of a call from whatever can be one.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$($crate::tracee::batch::Arg::from($arg)),*] };
}

/// System calls for the agent to make, in order.
#[derive(Debug, Default)]
pub struct Batch<'fd> {
    calls: Vec<(Call, [Option<Arg>; 6])>,
    steps: Vec<&'static str>,
    inputs: Vec<u8>,
    /// Offsets of words in `inputs` that hold an offset and must become an address.
    pointers: Vec<usize>,
    outputs: usize,
    fds: Vec<RawFd>,
    _fds: PhantomData<BorrowedFd<'fd>>,
    /// What did not fit into this one, and comes before it.
    earlier: Vec<Self>,
}

impl<'fd> Batch<'fd> {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether `calls` more calls with `bytes` of data and one descriptor may not fit.
    pub fn is_nearly_full(&self, calls: usize, bytes: usize) -> bool {
        self.calls.len() + calls > MAX_CALLS
            || self.fds.len() + 1 > MAX_FDS
            || self.len() + calls * size_of::<Call>() + bytes + 64 > MAX_MESSAGE
    }

    /// Makes room for `calls` more calls with `bytes` of data: where they would not fit, what was added so far becomes a
    /// batch of its own, to which later calls cannot refer.
    pub fn room(&mut self, calls: usize, bytes: usize) {
        if self.is_nearly_full(calls, bytes) {
            let mut earlier = std::mem::take(&mut self.earlier);
            earlier.push(std::mem::take(self));
            self.earlier = earlier;
        }
    }

    /// Whether another batch fits behind it.
    pub fn has_room_for(&self, other: &Self) -> bool {
        self.calls.len() + other.calls.len() <= MAX_CALLS
            && self.fds.len() + other.fds.len() <= MAX_FDS
            && self.len() + other.len() + 64 <= MAX_MESSAGE
    }

    /// Adds the calls of another batch, which has no earlier parts, behind its own.
    pub fn append(&mut self, other: Self) {
        self.inputs.resize(self.inputs.len().next_multiple_of(8), 0);
        let (calls, inputs, outputs, fds) =
            (self.calls.len(), self.inputs.len(), self.outputs, self.fds.len());
        let moved = |arg: Arg| match arg {
            Arg::Value(_) => arg,
            Arg::Input(offset) => Arg::Input(offset + inputs),
            Arg::Output(offset) => Arg::Output(offset + outputs),
            Arg::Result(CallId(index)) => Arg::Result(CallId(index + calls)),
            Arg::Fd(index) => Arg::Fd(index + fds),
        };
        self.calls.extend(other.calls.into_iter().map(|(call, args)| (call, args.map(|arg| arg.map(moved)))));
        self.steps.extend(other.steps);
        self.inputs.extend(other.inputs);
        for at in other.pointers {
            let at = at + inputs;
            // What is there is an offset.
            if let Some(word) = self.inputs.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *word = (u64::from_le_bytes(*word) + inputs as u64).to_le_bytes();
            }
            self.pointers.push(at);
        }
        self.outputs += other.outputs;
        self.fds.extend(other.fds);
    }

    /// How many calls it has.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The batches that [`Batch::room`] made of it, in order; none of them is empty.
    pub fn into_parts(mut self) -> Vec<Self> {
        let mut parts = std::mem::take(&mut self.earlier);
        parts.push(self);
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// Bytes of its message.
    pub fn len(&self) -> usize {
        size_of::<Header>() + self.calls.len() * size_of::<Call>() + self.inputs.len() + self.outputs
    }

    /// Adds a call whose failure ends the batch; `step` names it in errors, as a manual page would.
    pub fn call(&mut self, step: &'static str, number: i64, args: &[Arg]) -> CallId {
        self.push(step, number, args, 0)
    }

    /// Adds a call that may fail.
    pub fn try_call(&mut self, step: &'static str, number: i64, args: &[Arg]) -> CallId {
        self.push(step, number, args, Call::MAY_FAIL)
    }

    /// Adds a `clone3` of a child that shares the task's memory, and makes the call again for a grandchild, with the
    /// arguments that the third argument points to, and ends.
    pub fn call_twice(&mut self, step: &'static str, number: i64, args: &[Arg]) -> CallId {
        self.push(step, number, args, Call::CLONES_TWICE)
    }

    /// Adds a `clone3` of a child with memory and descriptors of its own that serves on, by the socket that the third argument is
    /// the number of, under the number that is the fourth, and has no other descriptors.
    pub fn call_serving(&mut self, step: &'static str, number: i64, args: &[Arg]) -> CallId {
        self.push(step, number, args, Call::CHILD_SERVES)
    }

    fn push(&mut self, step: &'static str, number: i64, args: &[Arg], flags: u32) -> CallId {
        let mut wide = [None; 6];
        for (slot, arg) in wide.iter_mut().zip(args) {
            *slot = Some(*arg);
        }
        self.calls.push((Call { number: number as u32, flags, kinds: 0, reserved: 0, args: [0; 6] }, wide));
        self.steps.push(step);
        CallId(self.calls.len() - 1)
    }

    /// Adds bytes for the kernel to read.
    pub fn input<T: IntoBytes + Immutable + ?Sized>(&mut self, value: &T) -> Arg {
        self.inputs.resize(self.inputs.len().next_multiple_of(8), 0);
        let offset = self.inputs.len();
        self.inputs.extend_from_slice(value.as_bytes());
        Arg::Input(offset)
    }

    /// Adds a struct some of whose words are addresses of other inputs.
    pub fn input_words(&mut self, words: &[Word]) -> Arg {
        let value = |word: &Word| match word {
            Word::Value(value) => *value,
            Word::Pointer(Arg::Input(offset)) => *offset as u64,
            Word::Pointer(_) => 0,
        };
        let values: Vec<u64> = words.iter().map(value).collect();
        let at = self.input(values.as_slice());
        if let Arg::Input(start) = at {
            let pointers = words.iter().enumerate().filter(|(_, word)| matches!(word, Word::Pointer(_)));
            self.pointers.extend(pointers.map(|(i, _)| start + i * 8));
        }
        at
    }

    /// Adds a string that ends in a zero byte.
    pub fn input_str(&mut self, bytes: &[u8]) -> Arg {
        let offset = self.inputs.len();
        self.inputs.extend_from_slice(bytes);
        self.inputs.push(0);
        Arg::Input(offset)
    }

    /// Adds room for a value that comes back.
    pub fn output<T: FromBytes>(&mut self) -> Output<T> {
        self.output_len(size_of::<T>())
    }

    /// Adds room for `len` bytes that come back.
    pub fn output_len<T>(&mut self, len: usize) -> Output<T> {
        let offset = self.outputs;
        self.outputs += len.next_multiple_of(8);
        Output { offset, len, _type: PhantomData }
    }

    /// Adds a descriptor that the target gets; close-on-exec, under a number that the kernel chooses.
    pub fn fd(&mut self, fd: BorrowedFd<'fd>) -> Arg {
        self.fds.push(fd.as_raw_fd());
        Arg::Fd(self.fds.len() - 1)
    }

    /// What is needed of it to read the answer, when it has been sent with its descriptors.
    pub fn without_descriptors(self) -> Batch<'static> {
        let Self { calls, steps, outputs, .. } = self;
        Batch { calls, steps, outputs, ..Batch::default() }
    }

    /// The descriptors that travel along.
    pub fn fds(&self) -> &[RawFd] {
        &self.fds
    }

    /// The message for an agent whose buffer is at `buffer`.
    pub(super) fn encode(&self, buffer: u64) -> Result<Vec<u8>, SysError> {
        let too_large = SysError { call: "batch", errno: Errno::EMSGSIZE };
        let inputs = self.inputs.len().next_multiple_of(8);
        let header = Header {
            calls: self.calls.len() as u32,
            data: (inputs + self.outputs) as u32,
            reply_from: inputs as u32,
            reply_len: self.outputs as u32,
        };
        let mut bytes = Vec::with_capacity(self.len() + 8);
        bytes.extend_from_slice(header.as_bytes());
        for (call, args) in &self.calls {
            let mut call = *call;
            for (i, arg) in args.iter().enumerate() {
                let (kind, value) = match arg {
                    None => (ArgKind::Value, 0),
                    Some(Arg::Value(value)) => (ArgKind::Value, *value),
                    Some(Arg::Input(offset)) => (ArgKind::Data, *offset as u64),
                    Some(Arg::Output(offset)) => (ArgKind::Data, (inputs + offset) as u64),
                    Some(Arg::Result(CallId(index))) => (ArgKind::Result, *index as u64),
                    Some(Arg::Fd(index)) => (ArgKind::Fd, *index as u64),
                };
                call.kinds |= (kind as u32) << (ArgKind::BITS * i as u32);
                if let Some(slot) = call.args.get_mut(i) {
                    *slot = value;
                }
            }
            bytes.extend_from_slice(call.as_bytes());
        }
        let data = bytes.len();
        bytes.extend_from_slice(&self.inputs);
        for &at in &self.pointers {
            if let Some(word) = bytes.get_mut(data + at..).and_then(|rest| rest.first_chunk_mut()) {
                *word = (u64::from_le_bytes(*word) + buffer + data as u64).to_le_bytes();
            }
        }
        bytes.resize(bytes.len() + (inputs - self.inputs.len()) + self.outputs, 0);
        if bytes.len() > MAX_MESSAGE || self.calls.len() > MAX_CALLS || self.fds.len() > MAX_FDS {
            return Err(too_large);
        }
        Ok(bytes)
    }

    /// Reads the agent's answer to this batch.
    pub(super) fn decode(&self, packet: &[u8]) -> Result<Replies, BatchError> {
        let (reply, rest) = Reply::read_from_prefix(packet).ok().ok_or(BatchError::Garbled)?;
        let made = reply.made as usize;
        let (results, data) = rest.split_at_checked(made.saturating_mul(8)).ok_or(BatchError::Garbled)?;
        self.replies(results, data)
    }

    /// Where a thread that has this batch in its slot leaves its answer: how many calls it made, their results, and at the
    /// end of the message, which ends at `end`, what comes back. Addresses, and bytes.
    pub(super) fn answer_at(&self, made: u64, results: u64, end: u64) -> [(u64, usize); 3] {
        let [results, data] = self.results_at(results, end);
        [(made, 4), results, data]
    }

    /// The same without how many calls were made.
    pub(super) fn results_at(&self, results: u64, end: u64) -> [(u64, usize); 2] {
        [(results, self.calls.len() * 8), (end - self.outputs as u64, self.outputs)]
    }

    /// Bytes of its message for an agent.
    pub(super) fn message_len(&self) -> usize {
        let inputs = self.inputs.len();
        self.len() - inputs + inputs.next_multiple_of(8)
    }

    /// Reads such an answer, and what of `bytes` is behind it.
    pub(super) fn take_answer<'b>(&self, bytes: &'b [u8]) -> Result<(Replies, &'b [u8]), BatchError> {
        let (made, rest) = bytes.split_first_chunk::<4>().ok_or(BatchError::Garbled)?;
        self.take_results(u32::from_le_bytes(*made) as usize, rest)
    }

    /// The same where it is known how many calls were `made`.
    pub(super) fn take_results<'b>(
        &self,
        made: usize,
        bytes: &'b [u8],
    ) -> Result<(Replies, &'b [u8]), BatchError> {
        let (results, rest) = bytes.split_at_checked(self.calls.len() * 8).ok_or(BatchError::Garbled)?;
        let (data, rest) = rest.split_at_checked(self.outputs).ok_or(BatchError::Garbled)?;
        let results = results.get(..made.saturating_mul(8)).ok_or(BatchError::Garbled)?;
        Ok((self.replies(results, data)?, rest))
    }

    fn replies(&self, results: &[u8], data: &[u8]) -> Result<Replies, BatchError> {
        let results: Vec<i64> =
            results.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let made = results.len();
        if made < self.calls.len() || data.len() != self.outputs {
            let failed =
                made.checked_sub(1).and_then(|last| Some((*results.get(last)?, *self.steps.get(last)?)));
            return Err(match failed {
                Some((result, call)) if (-4095..0).contains(&result) => {
                    BatchError::Failed { index: made - 1, error: sys_error(call, result) }
                }
                _ => BatchError::Garbled,
            });
        }
        Ok(Replies { results, steps: self.steps.clone(), data: data.to_vec() })
    }
}

fn sys_error(call: &'static str, result: i64) -> SysError {
    SysError { call, errno: Errno::from_raw(-result as i32) }
}

/// How a batch failed.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A call failed that must not.
    #[error("{error}")]
    Failed {
        /// Which call of the batch.
        index: usize,
        /// Its step, and what the kernel said.
        error: SysError,
    },
    /// The answer is not one.
    #[error("the agent's answer makes no sense")]
    Garbled,
}

/// What the kernel said to each call of a batch.
#[derive(Debug)]
pub struct Replies {
    results: Vec<i64>,
    steps: Vec<&'static str>,
    data: Vec<u8>,
}

impl Replies {
    /// The result of a call.
    pub fn result(&self, CallId(index): CallId) -> Result<i64, SysError> {
        let step = self.steps.get(index).copied().unwrap_or("call");
        match self.results.get(index) {
            Some(&result) if (-4095..0).contains(&result) => Err(sys_error(step, result)),
            Some(&result) => Ok(result),
            None => Err(SysError { call: step, errno: Errno::EBADMSG }),
        }
    }

    /// A value that the kernel wrote.
    pub fn output<T: FromBytes>(&self, output: Output<T>) -> Result<T, SysError> {
        let missing = SysError { call: "agent output", errno: Errno::EBADMSG };
        T::read_from_bytes(self.output_bytes(output)?).ok().ok_or(missing)
    }

    /// The bytes that the kernel wrote.
    pub fn output_bytes<T>(&self, output: Output<T>) -> Result<&[u8], SysError> {
        let missing = SysError { call: "agent output", errno: Errno::EBADMSG };
        self.data.get(output.offset..output.offset + output.len).ok_or(missing)
    }
}
