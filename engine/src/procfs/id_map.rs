//! `/proc/PID/uid_map` and `gid_map`: the ids of a user namespace, documented in user_namespaces(7).

use super::ParseError;
use super::text::Lines;

const FILE: &str = "/proc/PID/uid_map";

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first id inside.
    pub inside: u32,
    /// The same in the user namespace of the reader.
    pub outside: u32,
    /// How many there are.
    pub count: u32,
}

/// Parses the text.
pub fn parse(text: &[u8]) -> Result<Vec<Extent>, ParseError> {
    let extents = Lines::new(FILE, text).map(|mut line| {
        line.blanks();
        let inside = line.field("the first id inside")?;
        line.blanks();
        let outside = line.field("the first id outside")?;
        line.blanks();
        Ok(Extent { inside, outside, count: line.field("a number of ids")? })
    });
    extents.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn ranges_are_read() {
        let map = parse(b"         0     100000      65536\n     65536          0 4294967295\n").unwrap();
        assert_eq!(map[0], Extent { inside: 0, outside: 100_000, count: 65536 });
        assert_eq!(map[1].count, u32::MAX);
        assert_eq!(parse(b"").unwrap(), []);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }
    }
}
