//! Checksums of image files: XXH3 (64 bits) of each MiB, kept in a file of our own beside the set.
//!
//! They find what disks, networks and copies do to images. They are no signature: who can change an image can change its
//! checksums too.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use proto::messages::StasisChecksumEntry;
use twox_hash::XxHash3_64;

use crate::error::SysError;

/// Bytes that one checksum covers; the last of a file may cover fewer.
pub const BLOCK: u64 = 1 << 20;

/// Bytes that are read at once: they stay in the cache until they are summed, and need no fresh memory.
const PIECE: usize = 64 << 10;

/// The checksum of a block.
pub fn of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Size and checksums of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSums {
    /// Its size in bytes.
    pub size: u64,
    /// One for each block.
    pub blocks: Vec<u64>,
}

impl FileSums {
    /// Reads a file and computes them.
    pub fn read(file: &File) -> Result<Self, SysError> {
        let size = file.metadata().map_err(SysError::io("fstat"))?.len();
        let mut sums = Self { size, blocks: Vec::new() };
        let mut buffer = vec![0; PIECE.min(size as usize)];
        for start in (0..size).step_by(BLOCK as usize) {
            let mut sum = BlockSum::default();
            let end = size.min(start + BLOCK);
            for at in (start..end).step_by(PIECE) {
                let piece = buffer.get_mut(..PIECE.min((end - at) as usize)).unwrap_or_default();
                file.read_exact_at(piece, at).map_err(SysError::io("read"))?;
                sum.add(piece);
            }
            sums.blocks.push(sum.finish());
        }
        Ok(sums)
    }

    /// Whether a file is longer or shorter than it was.
    pub fn compare_size(&self, size: u64) -> Option<Damage> {
        (size != self.size).then_some(Damage::Size { was: self.size, is: size })
    }

    /// Whether the bytes of the block at `at` are others than they were.
    pub fn compare_block(&self, at: u64, bytes: &[u8]) -> Option<Damage> {
        let sum = self.blocks.get((at / BLOCK) as usize)?;
        (of(bytes) != *sum).then_some(Damage::Block(at))
    }

    /// The first difference between what a file holds and these sums; none if it is what it was.
    pub fn compare_bytes(&self, bytes: &[u8]) -> Option<Damage> {
        let blocks = (0..).step_by(BLOCK as usize).zip(bytes.chunks(BLOCK as usize));
        let mut differing = blocks.filter_map(|(at, block)| self.compare_block(at, block));
        self.compare_size(bytes.len() as u64).or_else(|| differing.next())
    }

    /// The first difference between a file and these sums; none if it is what it was.
    pub fn compare(&self, file: &File) -> Result<Option<Damage>, SysError> {
        let size = file.metadata().map_err(SysError::io("fstat"))?.len();
        if let Some(damage) = self.compare_size(size) {
            return Ok(Some(damage));
        }
        let mut buffer = vec![0; BLOCK.min(size) as usize];
        for at in (0..size).step_by(BLOCK as usize) {
            let len = BLOCK.min(size.saturating_sub(at)) as usize;
            let block = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(block, at).map_err(SysError::io("read"))?;
            if let Some(damage) = self.compare_block(at, block) {
                return Ok(Some(damage));
            }
        }
        Ok(None)
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is longer or shorter.
    #[error("it has {is} bytes, and had {was}")]
    Size {
        /// When it was written.
        was: u64,
        /// Now.
        is: u64,
    },
    /// The block that begins here has changed.
    #[error("the MiB at byte {0} is not what was written (its checksum differs)")]
    Block(u64),
}

/// Computes the checksum of a block, piece by piece.
#[derive(Default)]
pub struct BlockSum(XxHash3_64);

impl std::fmt::Debug for BlockSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockSum").finish_non_exhaustive()
    }
}

impl BlockSum {
    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The checksum.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Passes on what is written, a block at a time, and computes the sums on the way.
#[derive(Debug)]
pub struct Summing<W> {
    output: W,
    block: Vec<u8>,
    sums: FileSums,
}

impl<W: Write> Summing<W> {
    /// Nothing is written yet.
    pub fn new(output: W) -> Self {
        Self { output, block: Vec::new(), sums: FileSums::default() }
    }

    /// Passes on the rest. What was written to, and the sums.
    pub fn finish(mut self) -> io::Result<(W, FileSums)> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        Ok((self.output, self.sums))
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.output.write_all(&self.block)?;
        self.sums.blocks.push(of(&self.block));
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK as usize - self.block.len();
        let bytes = bytes.get(..room).unwrap_or(bytes);
        self.block.extend_from_slice(bytes);
        self.sums.size += bytes.len() as u64;
        if bytes.len() == room {
            self.end_block()?;
        }
        Ok(bytes.len())
    }

    /// Does nothing: what makes no whole block yet is passed on at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sums of all files of a set, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetSums(pub BTreeMap<String, FileSums>);

impl SetSums {
    /// As entries of an image; the last one covers those before it.
    pub fn entries(&self) -> Vec<StasisChecksumEntry> {
        let mut entries: Vec<StasisChecksumEntry> = self
            .0
            .iter()
            .map(|(name, sums)| StasisChecksumEntry {
                file: name.clone(),
                size: sums.size,
                blocks: sums.blocks.clone(),
            })
            .collect();
        entries.push(seal(&entries));
        entries
    }

    /// From the entries of an image; none if they are damaged themselves.
    pub fn from_entries(mut entries: Vec<StasisChecksumEntry>) -> Option<Self> {
        let sealed_with = entries.pop()?;
        if sealed_with != seal(&entries) {
            return None;
        }
        let sums = entries.into_iter().map(|e| (e.file, FileSums { size: e.size, blocks: e.blocks }));
        Some(Self(sums.collect()))
    }
}

/// The entry that covers all others: it has no name.
fn seal(entries: &[StasisChecksumEntry]) -> StasisChecksumEntry {
    let bytes: Vec<u8> = entries.iter().flat_map(prost::Message::encode_to_vec).collect();
    StasisChecksumEntry { file: String::new(), size: bytes.len() as u64, blocks: vec![of(&bytes)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_on_the_way_are_those_of_the_file() {
        for len in [0, 1, BLOCK as usize - 1, BLOCK as usize, 2 * BLOCK as usize + 17] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 1000) as u8).collect();
            let file = tempfile::tempfile().unwrap();
            let mut summing = Summing::new(&file);
            for part in bytes.chunks(70_001) {
                summing.write_all(part).unwrap();
            }
            let (_, sums) = summing.finish().unwrap();
            assert_eq!(sums, FileSums::read(&file).unwrap(), "{len} bytes");
            assert_eq!(sums.compare_bytes(&bytes), None);
            assert_eq!(sums.compare(&file).unwrap(), None);
        }
    }

    #[test]
    fn damage_is_found_where_it_is() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 3 * BLOCK as usize], 0).unwrap();
        let sums = FileSums::read(&file).unwrap();
        file.write_all_at(b"x", BLOCK + 5).unwrap();
        assert_eq!(sums.compare(&file).unwrap(), Some(Damage::Block(BLOCK)));
        let mut bytes = vec![7; 3 * BLOCK as usize];
        bytes[BLOCK as usize + 5] = b'x';
        assert_eq!(sums.compare_bytes(&bytes), Some(Damage::Block(BLOCK)));
        file.set_len(17).unwrap();
        assert_eq!(sums.compare(&file).unwrap(), Some(Damage::Size { was: 3 * BLOCK, is: 17 }));
    }

    #[test]
    fn damaged_sums_are_no_sums() {
        let sums = FileSums { size: 3, blocks: vec![1, 2] };
        let set = SetSums([("a".to_owned(), sums.clone()), ("b".to_owned(), sums)].into());
        assert_eq!(SetSums::from_entries(set.entries()), Some(set.clone()));
        let mut changed = set.entries();
        changed[1].blocks[0] = 9;
        assert_eq!(SetSums::from_entries(changed), None);
        assert_eq!(SetSums::from_entries(set.entries()[..2].to_vec()), None);
    }
}
