//! Extended headers of tar archives (pax(1), "pax Header Block"): records of a length, a key and a value, which may hold any
//! byte. The tar library takes newlines for ends of records, so they are read here.

/// The extended attributes of a file have their names behind this, as star and GNU tar write them.
pub(super) const XATTR: &str = "SCHILY.xattr.";
/// Time of the last change of the data, with its fraction.
pub(super) const MTIME: &str = "mtime";
/// A name that is too long for the header.
pub(super) const PATH: &str = "path";
/// A target of a link that is too long for the header.
pub(super) const LINK_PATH: &str = "linkpath";
/// Ours: what a member is that tar has no type for; its value is `socket`.
pub(super) const FILE_TYPE: &str = "STASIS.type";
/// What GNU tar puts before a file of which it leaves the holes out.
pub(super) const SPARSE: &str = "GNU.sparse.";
/// The version of that.
pub(super) const SPARSE_MAJOR: &str = "GNU.sparse.major";
pub(super) const SPARSE_MINOR: &str = "GNU.sparse.minor";
/// The name of the file: the header has another, for those who do not know such files.
pub(super) const SPARSE_NAME: &str = "GNU.sparse.name";
/// Its size with holes.
pub(super) const SPARSE_SIZE: &str = "GNU.sparse.realsize";

/// A key and a value.
pub(super) type Record = (String, Vec<u8>);

/// Parses the records; none if they are damaged.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let key = std::str::from_utf8(record.get(..equals)?).ok()?;
        records.push((key.to_owned(), record.get(equals + 1..)?.to_vec()));
        bytes = bytes.get(length..)?;
    }
    Some(records)
}

/// Seconds and nanoseconds of a time.
pub(super) fn time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let mut nanoseconds = digits.map(|digit| char::from(digit).to_digit(10));
    let nanoseconds = nanoseconds.try_fold(0_i64, |all, digit| Some(all * 10 + i64::from(digit?)))?;
    // The fraction counts away from zero, the kernel's nanoseconds count up.
    match (seconds.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((whole, nanoseconds)),
    }
}

/// The text of a time.
pub(super) fn time_text(seconds: i64, nanoseconds: i64) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (..0, _) => {
            let (whole, rest) = (seconds + 1, 1_000_000_000 - nanoseconds);
            format!("-{}.{rest:09}", -whole)
        }
        _ => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_any_byte() {
        let records = parse(b"11 a=x\ny=z\n17 mtime=12.0000\n").unwrap();
        assert_eq!(records, [("a".into(), b"x\ny=z".to_vec()), ("mtime".into(), b"12.0000".to_vec())]);
        for damaged in ["1 a=x\n", "99 a=x\n", "6 a=x", "x", "5 a x\n", "0 ", "18446744073709551615 a=b\n"] {
            assert_eq!(parse(damaged.as_bytes()), None, "{damaged}");
        }
    }

    #[test]
    fn times_have_fractions() {
        for (text, time_of) in [
            ("7", (7, 0)),
            ("7.000000001", (7, 1)),
            ("-1.500000000", (-2, 500_000_000)),
            ("-0.100000000", (-1, 900_000_000)),
        ] {
            assert_eq!(time(text.as_bytes()), Some(time_of));
            assert_eq!(time_text(time_of.0, time_of.1), text);
        }
        assert_eq!(time(b"7.5"), Some((7, 500_000_000)));
        assert_eq!((time(b""), time(b"7.x")), (None, None));
    }
}
