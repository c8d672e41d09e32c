//! A cursor over the lines and fields of a text from the kernel.

use std::borrow::Cow;

use super::ParseError;

/// The lines of a file, without their newlines.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    file: &'static str,
    rest: &'a [u8],
    number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'static str, text: &'a [u8]) -> Self {
        Self { file, rest: text, number: 0 }
    }

    /// The next line, which must be there.
    pub(super) fn require(&mut self, expected: &'static str) -> Result<Line<'a>, ParseError> {
        let (file, number) = (self.file, self.number + 1);
        self.next().ok_or_else(|| ParseError::new(file, number, expected, b""))
    }

    /// An error about the whole text, at the line that was read last.
    pub(super) fn fail(&self, expected: &'static str) -> ParseError {
        ParseError::new(self.file, self.number, expected, b"")
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = split_at_byte(self.rest, b'\n').unwrap_or((self.rest, b""));
        self.rest = rest;
        self.number += 1;
        Some(Line { file: self.file, number: self.number, rest: line })
    }
}

/// What is left of one line. Each method takes something off its front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    file: &'static str,
    number: usize,
    pub(super) rest: &'a [u8],
}

impl<'a> Line<'a> {
    /// A text that is one line by definition, even where a process put newlines into it.
    pub(super) fn whole(file: &'static str, text: &'a [u8]) -> Self {
        Self { file, number: 1, rest: text }
    }

    pub(super) fn fail(&self, expected: &'static str) -> ParseError {
        ParseError::new(self.file, self.number, expected, self.rest)
    }

    /// Takes a key and its colon, and the blanks behind: `Pid:\t17`.
    pub(super) fn key(&mut self, expected: &'static str) -> Result<&'a [u8], ParseError> {
        let (key, rest) = split_at_byte(self.rest, b':').ok_or_else(|| self.fail(expected))?;
        self.rest = rest;
        self.blanks();
        Ok(key)
    }

    /// Takes any number of spaces and tabs.
    pub(super) fn blanks(&mut self) {
        let blanks = self.rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        self.rest = self.rest.get(blanks..).unwrap_or_default();
    }

    /// Takes this byte.
    pub(super) fn byte(&mut self, byte: u8, expected: &'static str) -> Result<(), ParseError> {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                Ok(())
            }
            _ => Err(self.fail(expected)),
        }
    }

    /// Takes this text where it comes next.
    pub(super) fn skip(&mut self, text: &[u8]) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the bytes up to the next blank, at least one.
    pub(super) fn word(&mut self, expected: &'static str) -> Result<&'a [u8], ParseError> {
        let length = self.rest.iter().take_while(|b| !matches!(b, b' ' | b'\t' | b'\n')).count();
        match self.rest.split_at_checked(length) {
            Some((word, rest)) if length > 0 => {
                self.rest = rest;
                Ok(word)
            }
            _ => Err(self.fail(expected)),
        }
    }

    /// Takes a decimal number of the type's range; a minus sign only where the type has one.
    pub(super) fn decimal<T: TryFrom<i128>>(&mut self, expected: &'static str) -> Result<T, ParseError> {
        let before = *self;
        let negative = self.skip(b"-");
        let Ok(magnitude) = self.digits(10, expected) else {
            return Err(before.fail(expected));
        };
        let value = i128::from(magnitude);
        T::try_from(if negative { -value } else { value }).map_err(|_out_of_range| before.fail(expected))
    }

    /// Takes blanks and a decimal number.
    pub(super) fn field<T: TryFrom<i128>>(&mut self, expected: &'static str) -> Result<T, ParseError> {
        self.blanks();
        self.decimal(expected)
    }

    /// Takes a hexadecimal number without prefix.
    pub(super) fn hex(&mut self, expected: &'static str) -> Result<u64, ParseError> {
        self.digits(16, expected)
    }

    /// Takes an octal number.
    pub(super) fn octal<T: TryFrom<u64>>(&mut self, expected: &'static str) -> Result<T, ParseError> {
        let before = *self;
        T::try_from(self.digits(8, expected)?).map_err(|_out_of_range| before.fail(expected))
    }

    /// Succeeds when only blanks are left.
    pub(super) fn end(&mut self, expected: &'static str) -> Result<(), ParseError> {
        self.blanks();
        if self.rest.is_empty() { Ok(()) } else { Err(self.fail(expected)) }
    }

    fn digits(&mut self, radix: u32, expected: &'static str) -> Result<u64, ParseError> {
        let mut value = 0_u64;
        let mut rest = self.rest;
        while let Some((byte, after)) = rest.split_first() {
            let Some(digit) = char::from(*byte).to_digit(radix) else { break };
            value = value
                .checked_mul(u64::from(radix))
                .and_then(|v| v.checked_add(u64::from(digit)))
                .ok_or_else(|| self.fail(expected))?;
            rest = after;
        }
        if rest.len() == self.rest.len() {
            return Err(self.fail(expected));
        }
        self.rest = rest;
        Ok(value)
    }
}

/// Undoes the kernel's octal escapes (`\040`), for the listed bytes only: others it leaves as they are.
pub(super) fn unescape_octal<'a>(text: &'a [u8], escaped: &[u8]) -> Cow<'a, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        match (first, octal_byte(after)) {
            (b'\\', Some((byte, after))) if escaped.contains(&byte) => {
                out.push(byte);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

fn octal_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, after) = text.split_at_checked(3)?;
    let value = digits.iter().try_fold(0_u32, |v, d| Some(v * 8 + char::from(*d).to_digit(8)?))?;
    Some((u8::try_from(value).ok()?, after))
}

/// The bytes before and behind the first such byte.
pub(super) fn split_at_byte(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|b| *b == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stop_where_their_type_ends() {
        let line = |text| Line::whole("test", text);
        assert_eq!(line(b"4294967295").decimal::<u32>("x"), Ok(u32::MAX));
        assert!(line(b"4294967296").decimal::<u32>("x").is_err());
        assert_eq!(line(b"-1 2").decimal::<i32>("x"), Ok(-1));
        assert!(line(b"-1").decimal::<u32>("x").is_err());
        assert!(line(b"-").decimal::<i32>("x").is_err());
        assert_eq!(line(b"ffffffffffffffff").hex("x"), Ok(u64::MAX));
        assert!(line(b"10000000000000000").hex("x").is_err());
    }

    #[test]
    fn an_error_shows_what_could_not_be_read() {
        let error = Line::whole("/proc/PID/stat", b"-x").decimal::<i32>("the pid").unwrap_err();
        assert_eq!(error.to_string(), "/proc/PID/stat, line 1: expected the pid, found \"-x\"");
    }

    #[test]
    fn only_listed_bytes_are_unescaped() {
        assert_eq!(&*unescape_octal(br"a\040b\012\999\", b" "), br"a b\012\999\");
    }
}
