//! `/proc/PID/timens_offsets`: clock offsets of the time namespace for children, documented in time_namespaces(7).

use super::ParseError;
use super::text::Lines;

const FILE: &str = "/proc/PID/timens_offsets";

/// An offset from the initial time namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offset {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// Both offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimensOffsets {
    pub monotonic: Offset,
    pub boottime: Offset,
}

/// Parses the text of `/proc/PID/timens_offsets`.
pub fn parse(text: &[u8]) -> Result<TimensOffsets, ParseError> {
    let (mut monotonic, mut boottime) = (None, None);
    let mut lines = Lines::new(FILE, text);
    for mut line in lines.by_ref() {
        line.blanks();
        let before = line;
        // The file shows names and takes names or clock numbers.
        let slot = match line.word("a clock")? {
            b"monotonic" | b"1" => &mut monotonic,
            b"boottime" | b"7" => &mut boottime,
            _ => return Err(before.fail("monotonic or boottime")),
        };
        *slot = Some(Offset { seconds: line.field("seconds")?, nanoseconds: line.field("nanoseconds")? });
    }
    match (monotonic, boottime) {
        (Some(monotonic), Some(boottime)) => Ok(TimensOffsets { monotonic, boottime }),
        _ => Err(lines.fail("both monotonic and boottime")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[test]
    fn offsets_are_read() {
        let offsets =
            parse(b"monotonic         -86400  500000000\nboottime            0         0\n").unwrap();
        assert_eq!(offsets.monotonic, Offset { seconds: -86400, nanoseconds: 500_000_000 });
        assert_eq!(offsets.boottime, Offset::default());
    }

    #[rstest]
    #[case("monotonic 0 0\n", "both monotonic and boottime")]
    #[case("realtime 0 0\n", "monotonic or boottime")]
    #[case("monotonic 0\n", "nanoseconds")]
    fn damage_is_named(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(parse(text.as_bytes()).unwrap_err().expected, expected);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }
    }
}
