//! Runs one batch.

use zerocopy::{FromBytes, IntoBytes};

use crate::abi::{ArgKind, Call, Header, MAX_CALLS};
use crate::syscall;

/// A batch in memory: calls and data. Made by [`Batch::parse`], which checks that the message has the size it claims.
#[derive(Debug)]
pub struct Batch<'a> {
    calls: &'a [Call],
    /// The batch's data; calls point into it by address.
    pub data: &'a mut [u8],
    /// What of the data goes back.
    pub reply: core::ops::Range<usize>,
    /// In a child that serves on ([`Call::CHILD_SERVES`]): its socket's number, and the one that it is to have.
    pub born: Option<[i32; 2]>,
}

impl<'a> Batch<'a> {
    /// Reads a message; `None` if it is not one.
    pub fn parse(message: &'a mut [u8]) -> Option<Self> {
        let (header, rest) = Header::read_from_prefix(message.as_bytes()).ok().map(|(h, r)| (h, r.len()))?;
        let body_at = message.len().checked_sub(rest)?;
        let body = message.get_mut(body_at..)?;
        let count = header.calls as usize;
        if count > MAX_CALLS {
            return None;
        }
        let (calls, data) = body.split_at_mut_checked(count.checked_mul(size_of::<Call>())?)?;
        let calls = <[Call]>::ref_from_bytes(calls).ok()?;
        let from = header.reply_from as usize;
        let reply = from..from.checked_add(header.reply_len as usize)?;
        if data.len() != header.data as usize || reply.end > data.len() {
            return None;
        }
        Some(Self { calls, data, reply, born: None })
    }

    /// Reads the first of several messages, one behind the other; it, and the rest. `None` if there is none.
    pub fn split(messages: &'a mut [u8]) -> Option<(Self, &'a mut [u8])> {
        let (header, _) = Header::read_from_prefix(messages.as_bytes()).ok()?;
        let calls = (header.calls as usize).checked_mul(size_of::<Call>())?;
        let len = size_of::<Header>().checked_add(calls)?.checked_add(header.data as usize)?;
        let (message, rest) = messages.split_at_mut_checked(len)?;
        Some((Self::parse(message)?, rest))
    }

    /// How many calls it has.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Makes the calls, writes their results, and returns how many were made: all of them, or those up to and with
    /// the first that failed and must not. A child that serves on gets what was made before its birth.
    ///
    /// # Safety
    /// As the calls' effects are: the sender decides what they do to this process.
    pub unsafe fn run(&mut self, fds: &[i32], results: &mut [i64]) -> usize {
        let base = self.data.as_mut_ptr().expose_provenance() as u64;
        let mut made = 0;
        for call in self.calls {
            let mut args = call.args;
            let mut kinds = call.kinds;
            for arg in &mut args {
                *arg = resolve(kinds & ((1 << ArgKind::BITS) - 1), *arg, base, &results[..], fds);
                kinds >>= ArgKind::BITS;
            }
            let number = u64::from(call.number);
            let result = if call.flags & Call::CLONES_TWICE == 0 {
                // SAFETY: passed on to our caller.
                unsafe { syscall::raw(number, args) }
            } else {
                let [first, size, second, ..] = args;
                // SAFETY: passed on to our caller.
                unsafe { syscall::clone_twice(number, first, size, second) }
            };
            if result == 0 && call.flags & Call::CHILD_SERVES != 0 {
                let [_, _, socket, wanted, ..] = args;
                self.born = Some([socket as i32, wanted as i32]);
                return made;
            }
            if let Some(slot) = results.get_mut(made) {
                *slot = result;
            }
            made += 1;
            if syscall::failed(result) && call.flags & Call::MAY_FAIL == 0 {
                break;
            }
        }
        made
    }
}

/// The value of one argument. An index that points nowhere becomes -1, which no call takes for something it is not.
fn resolve(kind: u32, arg: u64, base: u64, results: &[i64], fds: &[i32]) -> u64 {
    const DATA: u32 = ArgKind::Data as u32;
    const RESULT: u32 = ArgKind::Result as u32;
    const FD: u32 = ArgKind::Fd as u32;
    match kind {
        DATA => base.wrapping_add(arg),
        RESULT => match results.get(arg as usize) {
            Some(&result) => result as u64,
            None => u64::MAX,
        },
        FD => match fds.get(arg as usize) {
            Some(&fd) => fd as u64,
            None => u64::MAX,
        },
        _ => arg,
    }
}
