//! `/proc/PID/auxv`: the auxiliary vector that the kernel gave to a program, documented in getauxval(3).

use super::ParseError;

const FILE: &str = "/proc/PID/auxv";
const WORD: usize = size_of::<u64>();

/// The vector, word by word, with the `AT_NULL` pair at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auxv {
    words: Vec<u64>,
}

impl Auxv {
    /// All words: types and values in turn.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The value of this type (`AT_*` of `linux/auxvec.h`).
    pub fn get(&self, at: u64) -> Option<u64> {
        self.words.chunks_exact(2).find_map(|pair| match pair {
            [kind, value] if *kind == at => Some(*value),
            _ => None,
        })
    }
}

/// Parses the bytes of a 64-bit process's `/proc/PID/auxv`.
pub fn parse(bytes: &[u8]) -> Result<Auxv, ParseError> {
    let (chunks, rest) = bytes.as_chunks::<WORD>();
    let words: Vec<u64> = chunks.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    if !rest.is_empty() || !words.len().is_multiple_of(2) {
        return Err(ParseError::new(FILE, 1, "pairs of 64-bit words", rest));
    }
    Ok(Auxv { words })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn values_are_found_by_type() {
        let words = [33_u64, 0x7fb8_a749_d000, libc::AT_PAGESZ, 4096, 0, 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let auxv = parse(&bytes).unwrap();
        assert_eq!(auxv.words(), words);
        assert_eq!((auxv.get(libc::AT_PAGESZ), auxv.get(libc::AT_RANDOM)), (Some(4096), None));
    }

    #[test]
    fn half_a_pair_is_an_error() {
        assert!(parse(&[0; 8]).is_err());
        assert!(parse(&[0; 17]).is_err());
    }

    #[test]
    fn our_own_vector_is_read() {
        let auxv = parse(&std::fs::read("/proc/self/auxv").unwrap()).unwrap();
        assert_eq!(auxv.get(libc::AT_PAGESZ), Some(4096));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
