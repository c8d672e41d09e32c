//! Quoted-printable (RFC 2045, section 6.7): names of unix sockets are bytes, and mostly readable.

use std::fmt::Write as _;

/// The longest line, with its soft break.
const LINE: usize = 76;

/// Encodes bytes; lines are broken softly where they would be too long.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let last = index + 1 == bytes.len();
        let plain = match byte {
            b'=' => false,
            b' ' | b'\t' => !last && column + 2 < LINE,
            _ => byte.is_ascii_graphic(),
        };
        let width = if plain { 1 } else { 3 };
        // The line's last column belongs to the soft break, unless the text ends here.
        if column + width > LINE - usize::from(!last) {
            text.push_str("=\n");
            column = 0;
        }
        if plain {
            text.push(char::from(byte));
        } else {
            write!(text, "={byte:02X}").expect("writing to memory does not fail");
        }
        column += width;
    }
    text
}

/// Decodes what [`encode`] makes, and text without any escapes; none if an escape is broken.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'=' {
            bytes.push(byte);
            continue;
        }
        match rest.next()? {
            b'\n' => {}
            b'\r' => {
                rest.next().filter(|b| *b == b'\n')?;
            }
            high => {
                let digit = |b: u8| char::from(b).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(rest.next()?)?).ok()?);
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn names_stay_readable() {
        assert_eq!(encode(b""), "");
        assert_eq!(encode(b"/tmp/sample/un.sock\0"), "/tmp/sample/un.sock=00");
        assert_eq!(encode(b"\0abstract=1 "), "=00abstract=3D1=20");
        assert_eq!(decode("a=\nb=C3=a4"), Some("abä".into()));
        assert_eq!(decode("a=0"), None);
        assert_eq!(decode("a=zz"), None);
    }

    proptest! {
        #[test]
        fn every_name_survives(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = encode(&bytes);
            prop_assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
            prop_assert_eq!(decode(&text), Some(bytes));
        }
    }
}
