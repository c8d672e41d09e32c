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

/// Both maps of a user namespace; empty ones where there is none of the tree's own, and ids are the same on either side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Of users.
    pub uids: Vec<Extent>,
    /// Of groups.
    pub gids: Vec<Extent>,
}

/// What the kernel shows of an id that has no place in a map (`DEFAULT_OVERFLOWUID` of `include/linux/highuid.h`).
pub const OVERFLOW: u32 = 65534;

/// The id inside of one outside.
pub fn inside(map: &[Extent], id: u32) -> u32 {
    let within = |e: &Extent| e.inside.checked_add(id.checked_sub(e.outside).filter(|by| *by < e.count)?);
    if map.is_empty() { id } else { map.iter().find_map(within).unwrap_or(OVERFLOW) }
}

/// The id outside of one inside.
pub fn outside(map: &[Extent], id: u32) -> u32 {
    let within = |e: &Extent| e.outside.checked_add(id.checked_sub(e.inside).filter(|by| *by < e.count)?);
    if map.is_empty() { id } else { map.iter().find_map(within).unwrap_or(OVERFLOW) }
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

    #[test]
    fn ids_go_both_ways() {
        let map =
            [Extent { inside: 0, outside: 100_000, count: 10 }, Extent { inside: 20, outside: 0, count: 5 }];
        assert_eq!((inside(&map, 100_009), outside(&map, 9)), (9, 100_009));
        assert_eq!((inside(&map, 4), outside(&map, 24)), (24, 4));
        assert_eq!((inside(&map, 100_010), outside(&map, 10)), (OVERFLOW, OVERFLOW));
        assert_eq!((inside(&[], 7), outside(&[], 7)), (7, 7));
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }
    }
}
