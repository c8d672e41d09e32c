//! What can be wrong with an image file.

use std::io;

use crate::catalogue::{COMMON_MAGIC, SERVICE_MAGIC};

/// Why an image file could not be read or written.
///
/// The texts name the entry by its number from 0, and the offset in the file. The path is known to the caller alone, who
/// puts it in front; `image` is the pattern of the file's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(clippy::error_impl_error, reason = "its users read `proto::Error`")]
pub enum Error {
    /// The operating system refused a read.
    #[error("read at byte {offset}: {source}")]
    Read { offset: u64, source: io::Error },

    /// The operating system refused a write.
    #[error("write at byte {offset}: {source}")]
    Write { offset: u64, source: io::Error },

    /// The file ends before its header does.
    #[error("the file has {len} bytes, too few for the header of an image")]
    NoHeader { len: u64 },

    /// The header belongs to another type of file.
    #[error("not {image}: its magic is {found:#010x}{}, expected {expected:#010x}", named(*.found))]
    WrongMagic { image: &'static str, expected: u32, found: u32 },

    /// The magic is right, but the word before it belongs to another family of files.
    #[error("not {image}: it begins with {found:#010x}, expected {expected:#010x}")]
    WrongFamily { image: &'static str, expected: u32, found: u32 },

    /// No type of file has this magic.
    #[error("not an image file: no type of image has the magic {found:#010x}")]
    UnknownMagic { found: u32 },

    /// A type of file without header and entries was to be read or written entry by entry.
    #[error("{image} files hold raw data, there are no entries to be decoded")]
    RawImage { image: &'static str },

    /// The file ends inside of the length word of an entry.
    #[error("entry {entry} at byte {offset}: the file ends after {has} of 4 bytes of its length")]
    TruncatedLength { image: &'static str, entry: u64, offset: u64, has: u64 },

    /// The file ends inside of an entry.
    #[error(
        "entry {entry} at byte {offset}: the file ends after {has} of {needs} bytes, {} are missing",
        needs - has
    )]
    TruncatedEntry { image: &'static str, entry: u64, offset: u64, needs: u64, has: u64 },

    /// The file ends inside of the raw bytes that belong to an entry.
    #[error(
        "raw bytes of entry {entry} at byte {offset}: the file ends after {has} of {needs} bytes, {} are missing",
        needs - has
    )]
    TruncatedExtra { image: &'static str, entry: u64, offset: u64, needs: u64, has: u64 },

    /// No sane entry is that long.
    #[error("entry {entry} at byte {offset}: {len} bytes announced, at most {limit} are accepted")]
    EntryTooLarge { image: &'static str, entry: u64, offset: u64, len: u64, limit: u64 },

    /// The bytes of an entry are not the message that they should be.
    #[error("entry {entry} at byte {offset}: {source}")]
    Decode { image: &'static str, entry: u64, offset: u64, source: prost::DecodeError },

    /// A file that should have (another) entry has none.
    #[error("the file ends at byte {offset}, where entry {entry} was expected")]
    MissingEntry { image: &'static str, entry: u64, offset: u64 },

    /// Bytes follow where the file should have ended.
    #[error("more follows at byte {offset}, where the file should have ended")]
    TrailingBytes { image: &'static str, offset: u64 },
}

/// Tells what a magic belongs to, in parentheses, when it is one we know.
fn named(magic: u32) -> String {
    match magic {
        COMMON_MAGIC => " (the first word of images)".to_owned(),
        SERVICE_MAGIC => " (the first word of service files)".to_owned(),
        _ => crate::ImageType::by_magic(magic).map(|t| format!(" ({})", t.pattern)).unwrap_or_default(),
    }
}
