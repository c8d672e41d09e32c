//! The bytes of a pages file: the whole file, mapped; or, of a small one that was read and checked, those that are needed.

use crate::sys::memory::MappedFile;

/// What is at hand of a pages file.
#[derive(Debug)]
pub(super) enum Contents {
    /// All of it; whoever uses it compares it with its checksums.
    Mapped(MappedFile),
    /// Parts of it, which are what was written.
    Read(Parts),
}

/// Parts of a file.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// How long the file is.
    len: u64,
    /// Where each part begins in the file, and in `bytes`, in ascending order.
    starts: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

impl Parts {
    /// Nothing of a file of that length yet.
    pub(super) fn of(len: u64) -> Self {
        Self { len, ..Self::default() }
    }

    /// Adds a part that is behind all others.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) {
        self.starts.push((offset, self.bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    fn get(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let behind = self.starts.partition_point(|(start, _)| *start <= offset);
        let (start, at) = *self.starts.get(behind.checked_sub(1)?)?;
        let end = self.starts.get(behind).map_or(self.bytes.len(), |(_, next)| *next);
        self.bytes.get(at..end)?.get((offset - start) as usize..)?.get(..len as usize)
    }
}

impl Contents {
    /// How long the file is.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Mapped(file) => file.len(),
            Self::Read(parts) => parts.len,
        }
    }

    /// A part of it.
    pub(super) fn get(&self, offset: u64, len: u64) -> Option<&[u8]> {
        match self {
            Self::Mapped(file) => file.get(offset, len),
            Self::Read(parts) => parts.get(offset, len),
        }
    }

    /// Whether it was compared with its checksums.
    pub(super) fn is_checked(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_and_nothing_between_them() {
        let mut parts = Parts::of(100);
        parts.add(10, b"abcd");
        parts.add(20, b"efgh");
        let contents = Contents::Read(parts);
        assert_eq!(contents.get(10, 4), Some(b"abcd".as_slice()));
        assert_eq!(contents.get(12, 2), Some(b"cd".as_slice()));
        assert_eq!(contents.get(22, 2), Some(b"gh".as_slice()));
        assert_eq!(contents.get(12, 3), None);
        assert_eq!(contents.get(9, 1), None);
        assert_eq!(contents.get(16, 1), None);
    }
}
