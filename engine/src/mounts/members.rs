//! Members of a tar archive (tar(5)), one after the other, with the maps of files whose holes GNU tar left out: in blocks behind
//! the header, as it writes them by default, or before the data, with records of version 1.0 (`--format=posix`).

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Everything in an archive begins at multiples of this.
const BLOCK: usize = 512;
/// Parts of a sparse file that are read at most.
const PARTS_MAX: usize = 1 << 20;

/// Where a file has data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sparse {
    /// How large it is.
    pub(super) size: u64,
    /// Where its data belongs, in the order of the archive, and how much it is.
    pub(super) parts: Vec<(u64, u64)>,
}

/// The members of an archive; what is read is the data of the one that was met last.
#[derive(Debug)]
pub(super) struct Members<R> {
    archive: R,
    left: u64,
    padding: u64,
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> Members<R> {
    pub(super) fn new(archive: R) -> Self {
        Self { archive, left: 0, padding: 0 }
    }

    /// The next one; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(Header, Option<Sparse>)>> {
        let rest = self.left.saturating_add(self.padding);
        if io::copy(&mut (&mut self.archive).take(rest), &mut io::sink())? < rest {
            return Err(damaged("it ends within a member"));
        }
        (self.left, self.padding) = (0, 0);
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        if header.cksum()? != checksum(&block) {
            return Err(damaged("the sum of a header is wrong"));
        }
        let sparse =
            if header.entry_type() == EntryType::GNUSparse { Some(self.map_behind(&header)?) } else { None };
        self.left = header.entry_size()?;
        self.padding = self.left.wrapping_neg() % BLOCK as u64;
        Ok(Some((header, sparse)))
    }

    /// A block; none at the end of the file.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut bytes = Vec::with_capacity(BLOCK);
        (&mut self.archive).take(BLOCK as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        bytes.try_into().map(Some).map_err(|_short| damaged("it ends within a block"))
    }

    /// The map in and behind a header of the old format.
    fn map_behind(&mut self, header: &Header) -> io::Result<Sparse> {
        let gnu = header.as_gnu().ok_or_else(|| damaged("a sparse file of an unknown format"))?;
        let mut sparse = Sparse { size: gnu.real_size()?, parts: Vec::new() };
        add_parts(&mut sparse.parts, &gnu.sparse)?;
        let mut goes_on = gnu.is_extended();
        while goes_on {
            let block = self.block()?.ok_or_else(|| damaged("it ends within a map"))?;
            let mut more = GnuExtSparseHeader::new();
            more.as_mut_bytes().copy_from_slice(&block);
            add_parts(&mut sparse.parts, more.sparse())?;
            goes_on = more.is_extended();
        }
        Ok(sparse)
    }

    /// The map that data begins with: how many parts there are, then their places and lengths, each in a line, up to the next
    /// block.
    pub(super) fn map_before(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut number = 0_u64;
        loop {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            for byte in block {
                let digit = char::from(byte).to_digit(10);
                match (byte, digit) {
                    (b'\n', _) => numbers.push(std::mem::take(&mut number)),
                    (_, Some(digit)) => {
                        let next = number.checked_mul(10).and_then(|n| n.checked_add(digit.into()));
                        number = next.ok_or_else(|| damaged("a number in a map is too large"))?;
                    }
                    _ => return Err(damaged("a map has more than numbers")),
                }
                let Some((count, found)) = numbers.split_first() else { continue };
                if *count > PARTS_MAX as u64 {
                    return Err(damaged("a file has too many parts"));
                }
                if found.len() as u64 == 2 * count {
                    return Ok(found.as_chunks().0.iter().map(|[at, length]| (*at, *length)).collect());
                }
            }
        }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = (&mut self.archive).take(self.left).read(buffer)?;
        if got == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(damaged("it ends within a member"));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

fn add_parts(parts: &mut Vec<(u64, u64)>, found: &[GnuSparseHeader]) -> io::Result<()> {
    for part in found.iter().filter(|part| !part.is_empty()) {
        parts.push((part.offset()?, part.length()?));
    }
    if parts.len() > PARTS_MAX { Err(damaged("a file has too many parts")) } else { Ok(()) }
}

/// The sum of the bytes of a header, in which that of its own field are spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    const FIELD: std::ops::Range<usize> = 148..156;
    let bytes = block.iter().enumerate();
    bytes.map(|(at, byte)| if FIELD.contains(&at) { 32 } else { u32::from(*byte) }).sum()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;

    use super::*;

    /// What GNU tar makes of a file with this many parts, each a page at the beginning of a megabyte, and of another behind it.
    fn archive(format: &str, parts: u64) -> Option<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("sparse")).unwrap();
        for part in 0..parts {
            file.write_all_at(&[b'x'; 4096], part << 20).unwrap();
        }
        file.set_len(parts << 20).unwrap();
        std::fs::write(dir.path().join("whole"), "whole").unwrap();
        let words = ["--sparse", "--format", format, "-cf", "-", "sparse", "whole"];
        let output = Command::new("tar").arg("-C").arg(dir.path()).args(words).output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut members = Members::new(bytes);
        let mut names = Vec::new();
        while let Some((header, _)) = members.next().unwrap() {
            names.push(String::from_utf8_lossy(&header.path_bytes()).into_owned());
        }
        names
    }

    #[test]
    fn maps_behind_headers_are_read() {
        for parts in [3, 100] {
            let Some(bytes) = archive("gnu", parts) else { return };
            let mut members = Members::new(bytes.as_slice());
            let (_, sparse) = members.next().unwrap().unwrap();
            let sparse = sparse.unwrap();
            assert_eq!(sparse.size, parts << 20);
            let expected: Vec<(u64, u64)> = (0..parts).map(|part| (part << 20, 4096)).collect();
            let data: Vec<(u64, u64)> = sparse.parts.into_iter().filter(|(_, length)| *length > 0).collect();
            assert_eq!(data, expected);
            let mut text = Vec::new();
            members.read_to_end(&mut text).unwrap();
            assert_eq!(text, vec![b'x'; parts as usize * 4096]);
            assert_eq!(names(&bytes), ["sparse", "whole"]);
        }
    }

    #[test]
    fn maps_before_data_are_read() {
        let Some(bytes) = archive("posix", 50) else { return };
        let mut members = Members::new(bytes.as_slice());
        while members.next().unwrap().unwrap().0.entry_type() != EntryType::Regular {}
        let parts = members.map_before().unwrap();
        let expected: Vec<(u64, u64)> = (0..50).map(|part| (part << 20, 4096)).collect();
        assert_eq!(parts.into_iter().filter(|(_, length)| *length > 0).collect::<Vec<_>>(), expected);
        let mut text = Vec::new();
        members.read_to_end(&mut text).unwrap();
        assert_eq!(text, vec![b'x'; 50 * 4096]);
    }

    #[test]
    fn damage_is_an_error() {
        let mut header = Header::new_gnu();
        header.set_size(1000);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&[b'x'; 700]);
        assert!(Members::new(bytes.as_slice()).next().unwrap().is_some());
        let mut members = Members::new(bytes.as_slice());
        members.next().unwrap();
        assert!(members.read_to_end(&mut Vec::new()).is_err());
        let mut members = Members::new(bytes.as_slice());
        members.next().unwrap();
        assert!(members.next().is_err());
        bytes[0] = 1;
        assert!(Members::new(bytes.as_slice()).next().is_err());
        assert!(Members::new(&bytes[..100]).next().is_err());
    }
}
