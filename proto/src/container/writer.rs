//! Writing image files.

use std::io::Write;

use prost::Message;

use crate::catalogue::ImageType;
use crate::container::MAX_ENTRY;
use crate::error::Error;

/// Writes one image file, entry by entry.
///
/// Each entry is a few small writes: give it something buffered.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    image: ImageType,
    offset: u64,
    entries: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the header of an image file.
    pub fn create(output: W, image: &ImageType) -> Result<Self, Error> {
        if !image.has_entries() {
            return Err(Error::RawImage { image: image.pattern });
        }
        let mut writer = Self { output, image: *image, offset: 0, entries: 0, buffer: Vec::new() };
        for word in image.container.first_word().into_iter().chain([image.magic]) {
            writer.put(&word.to_le_bytes())?;
        }
        Ok(writer)
    }

    /// Writes the next entry.
    pub fn entry(&mut self, message: &impl Message) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        // Encoding into a vector cannot fail: it grows.
        message.encode_raw(&mut buffer);
        let result = self.entry_bytes(&buffer);
        self.buffer = buffer;
        result
    }

    /// Writes the next entry from a message that is already encoded.
    pub fn entry_bytes(&mut self, message: &[u8]) -> Result<(), Error> {
        // What `Reader` would refuse must not be written.
        let Some(len) = u32::try_from(message.len()).ok().filter(|len| *len <= MAX_ENTRY) else {
            return Err(Error::EntryTooLarge {
                image: self.image.pattern,
                entry: self.entries,
                offset: self.offset,
                len: message.len() as u64,
                limit: u64::from(MAX_ENTRY),
            });
        };
        self.put(&len.to_le_bytes())?;
        self.put(message)?;
        self.entries += 1;
        Ok(())
    }

    /// Writes raw bytes that belong to the entry before.
    pub fn extra(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.put(bytes)
    }

    /// How many entries were written.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many bytes were written.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Flushes, and hands back what was written to.
    pub fn finish(mut self) -> Result<W, Error> {
        self.output.flush().map_err(|source| Error::Write { offset: self.offset, source })?;
        Ok(self.output)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.write_all(bytes).map_err(|source| Error::Write { offset: self.offset, source })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}
