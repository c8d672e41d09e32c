//! Reading image files.

use std::io::Read;

use prost::Message;
use prost_reflect::DynamicMessage;

use crate::catalogue::{self, COMMON_MAGIC, Container, ImageType, SERVICE_MAGIC};
use crate::error::Error;
use crate::messages::descriptor;

/// The longest entry that is accepted. An address space with a million mappings needs a quarter of it.
pub const MAX_ENTRY: u32 = 256 << 20;

/// Reads one image file, entry by entry.
///
/// Never allocates more than the bytes that are really there, whatever a length word says. Each entry is a few small
/// reads: give it something buffered.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    image: ImageType,
    offset: u64,
    entries: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the header, and checks that it is the one of `image`.
    pub fn open(input: R, image: &ImageType) -> Result<Self, Error> {
        if !image.has_entries() {
            return Err(Error::RawImage { image: image.pattern });
        }
        let mut reader = Self::at_start(input, image);
        let header = reader.header()?;
        if header.magic != image.magic {
            return Err(Error::WrongMagic {
                image: image.pattern,
                expected: image.magic,
                found: header.magic,
            });
        }
        header.check_family(image)?;
        Ok(reader)
    }

    /// Reads the header, and finds out which type of image it is.
    ///
    /// Where types share a magic, the result is the one that [`ImageType::by_magic`] prefers.
    pub fn detect(input: R) -> Result<Self, Error> {
        let mut reader = Self::at_start(input, &catalogue::INVENTORY);
        let header = reader.header()?;
        let image = ImageType::by_magic(header.magic).ok_or(Error::UnknownMagic { found: header.magic })?;
        header.check_family(image)?;
        reader.image = *image;
        Ok(reader)
    }

    fn at_start(input: R, image: &ImageType) -> Self {
        Self { input, image: *image, offset: 0, entries: 0 }
    }

    /// The type of image.
    pub fn image(&self) -> &ImageType {
        &self.image
    }

    /// How many entries were read.
    pub fn entries_read(&self) -> u64 {
        self.entries
    }

    /// Where in the file the next byte comes from.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next entry; none at the end of the file.
    pub fn entry<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        let offset = self.offset;
        let Some(bytes) = self.entry_bytes()? else {
            return Ok(None);
        };
        M::decode(bytes.as_slice()).map(Some).map_err(|source| self.decode_error(offset, source))
    }

    /// Reads the next entry of a file that must have one.
    pub fn required<M: Message + Default>(&mut self) -> Result<M, Error> {
        let missing =
            Error::MissingEntry { image: self.image.pattern, entry: self.entries, offset: self.offset };
        self.entry()?.ok_or(missing)
    }

    /// Reads the only entry of a file that must have exactly one.
    pub fn single<M: Message + Default>(mut self) -> Result<M, Error> {
        let message = self.required()?;
        let offset = self.offset;
        if self.bounded(1)?.is_empty() {
            Ok(message)
        } else {
            Err(Error::TrailingBytes { image: self.image.pattern, offset })
        }
    }

    /// Reads all entries that are left.
    pub fn all<M: Message + Default>(mut self) -> Result<Vec<M>, Error> {
        let mut messages = Vec::new();
        while let Some(message) = self.entry()? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Reads the next entry as the message that the catalogue names, keeping fields that it does not know; none at the
    /// end of the file.
    pub fn dynamic_entry(&mut self) -> Result<Option<DynamicMessage>, Error> {
        let image = self.image.pattern;
        let message = self.image.payload.message(self.entries).ok_or(Error::RawImage { image })?;
        self.dynamic_entry_of(message)
    }

    /// Reads the next entry as a message that the raw bytes of the entry before are made of.
    pub fn dynamic_entry_of(&mut self, message: &str) -> Result<Option<DynamicMessage>, Error> {
        let offset = self.offset;
        let Some(bytes) = self.entry_bytes()? else {
            return Ok(None);
        };
        let descriptor = descriptor(message).expect("a test checks that the catalogue's messages exist");
        DynamicMessage::decode(descriptor, bytes.as_slice())
            .map(Some)
            .map_err(|source| self.decode_error(offset, source))
    }

    /// Reads the next entry without decoding it; none at the end of the file.
    pub fn entry_bytes(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let (image, entry, offset) = (self.image.pattern, self.entries, self.offset);
        let word = self.bounded(4)?;
        let len = match <[u8; 4]>::try_from(word.as_slice()) {
            Ok(word) => u32::from_le_bytes(word),
            Err(_) if word.is_empty() => return Ok(None),
            Err(_) => return Err(Error::TruncatedLength { image, entry, offset, has: word.len() as u64 }),
        };
        if len > MAX_ENTRY {
            let limit = u64::from(MAX_ENTRY);
            return Err(Error::EntryTooLarge { image, entry, offset, len: u64::from(len), limit });
        }
        let bytes = self.bounded(u64::from(len))?;
        let has = bytes.len() as u64;
        if has < u64::from(len) {
            return Err(Error::TruncatedEntry { image, entry, offset, needs: u64::from(len), has });
        }
        self.entries += 1;
        Ok(Some(bytes))
    }

    /// Reads `len` raw bytes that belong to the entry before.
    pub fn extra(&mut self, len: u64) -> Result<Vec<u8>, Error> {
        let offset = self.offset;
        let bytes = self.bounded(len)?;
        let has = bytes.len() as u64;
        if has < len {
            let (image, entry) = (self.image.pattern, self.entries.saturating_sub(1));
            return Err(Error::TruncatedExtra { image, entry, offset, needs: len, has });
        }
        Ok(bytes)
    }

    /// Reads everything that is left: the body of a ghost file without chunks.
    pub fn rest(&mut self) -> Result<Vec<u8>, Error> {
        self.bounded(u64::MAX)
    }

    /// Hands back the input, just behind what was read.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn decode_error(&self, offset: u64, source: prost::DecodeError) -> Error {
        Error::Decode { image: self.image.pattern, entry: self.entries.saturating_sub(1), offset, source }
    }

    fn header(&mut self) -> Result<Header, Error> {
        let first = self.word()?;
        Ok(match first {
            COMMON_MAGIC => Header { container: Container::Common, magic: self.word()? },
            SERVICE_MAGIC => Header { container: Container::Service, magic: self.word()? },
            magic => Header { container: Container::MagicOnly, magic },
        })
    }

    fn word(&mut self) -> Result<u32, Error> {
        let word = self.bounded(4)?;
        <[u8; 4]>::try_from(word.as_slice())
            .map(u32::from_le_bytes)
            .map_err(|_wrong_length| Error::NoHeader { len: self.offset })
    }

    /// Reads up to `len` bytes. The buffer grows with what arrives, not with what was announced.
    fn bounded(&mut self, len: u64) -> Result<Vec<u8>, Error> {
        /// Room for what most entries have; more is added when it is needed.
        const ROOM: u64 = 4096;
        let mut bytes = Vec::with_capacity(len.min(ROOM) as usize);
        let read = self.input.by_ref().take(len).read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        read.map_err(|source| Error::Read { offset: self.offset, source })?;
        Ok(bytes)
    }
}

/// What a file begins with.
struct Header {
    container: Container,
    magic: u32,
}

impl Header {
    /// Takes exception to service files that are called images, and the other way round.
    fn check_family(&self, image: &ImageType) -> Result<(), Error> {
        if (self.container == Container::Service) == (image.container == Container::Service) {
            return Ok(());
        }
        Err(Error::WrongFamily {
            image: image.pattern,
            expected: image.container.first_word().unwrap_or(COMMON_MAGIC),
            found: self.container.first_word().unwrap_or(self.magic),
        })
    }
}
