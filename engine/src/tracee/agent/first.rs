//! What an agent is asked on its way in: batches in its buffer, whose answers it leaves where they are. That takes no message,
//! and nobody has to be woken up for it.

use std::mem::offset_of;

use parasite::abi::{MAX_CALLS, MAX_MESSAGE, Slot};

use super::{Agent, AgentError, Layout};
use crate::error::SysError;
use crate::tracee::batch::{Batch, BatchError, Replies};
use crate::tracee::memory::Memory;

/// Answers, or why there are none.
pub(super) type Answers = Vec<Result<Replies, BatchError>>;

/// Batches that fit together into an agent's buffer.
#[derive(Debug)]
pub(super) struct First<'b> {
    batches: Vec<&'b Batch<'static>>,
}

impl<'b> First<'b> {
    /// None if they do not fit.
    pub(super) fn of(batches: Vec<&'b Batch<'static>>) -> Option<Self> {
        let calls: usize = batches.iter().map(|batch| batch.calls()).sum();
        let bytes: usize = batches.iter().map(|batch| batch.message_len()).sum();
        (calls <= MAX_CALLS && bytes <= MAX_MESSAGE).then_some(Self { batches })
    }

    /// The messages, for this buffer.
    pub(super) fn encode(&self, buffer: u64) -> Result<Vec<u8>, SysError> {
        let mut all = Vec::new();
        for batch in &self.batches {
            all.extend(batch.encode(buffer + all.len() as u64)?);
        }
        Ok(all)
    }

    /// The two ends of the sockets of an agent that has begun, and its answers.
    pub(super) fn answers(&self, memory: &Memory, layout: Layout) -> Result<([i32; 2], Answers), AgentError> {
        let slot = layout.slot(0);
        let mut ranges = vec![
            (slot + offset_of!(Slot, socket) as u64, 4),
            (slot + offset_of!(Slot, engine_socket) as u64, 4),
            (slot + offset_of!(Slot, made) as u64, 4),
        ];
        let (mut results, mut end) = (layout.results(), layout.buffer());
        for batch in &self.batches {
            end += batch.message_len() as u64;
            ranges.extend(batch.results_at(results, end));
            results += batch.calls() as u64 * 8;
        }
        let mut bytes = vec![0; ranges.iter().map(|(_, len)| len).sum()];
        memory.read_ranges(&ranges, &mut bytes)?;
        let mut rest = bytes.as_slice();
        let mut word = || {
            let (word, behind) = rest.split_first_chunk::<4>().ok_or(BatchError::Garbled)?;
            rest = behind;
            Ok::<_, BatchError>(i32::from_le_bytes(*word))
        };
        let pair = [word()?, word()?];
        let mut made = word()? as u32 as usize;
        let mut answers = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            let of_this = made.min(batch.calls());
            made -= of_this;
            let [(_, results), (_, data)] = batch.results_at(0, u64::MAX);
            let (own, behind) = rest.split_at_checked(results + data).ok_or(BatchError::Garbled)?;
            answers.push(batch.take_results(of_this, own).map(|(replies, _)| replies));
            rest = behind;
        }
        Ok((pair, answers))
    }
}

impl Agent {
    /// Asks it what it was to be asked on its way in, if it has come in by another.
    pub fn ask_first(&mut self, batches: &[&Batch<'static>]) -> Result<(), AgentError> {
        if self.first.is_none() {
            batches.iter().try_for_each(|batch| self.send(batch))?;
        }
        Ok(())
    }

    /// What it answered to all that it was asked on its way in; else to these batches, which it was sent.
    pub fn first_replies(&mut self, batches: &[&Batch<'static>]) -> Result<Vec<Replies>, AgentError> {
        match self.first.take() {
            Some(answers) => Ok(answers.into_iter().collect::<Result<_, _>>()?),
            None => batches.iter().map(|batch| self.receive(batch)).collect(),
        }
    }
}
