//! Files that hold one number: `loginuid`, `oom_score_adj`, `timerslack_ns`, `/proc/sys/kernel/ns_last_pid` …

use super::ParseError;
use super::text::Line;

/// Parses a decimal number, with or without a newline. `file` is for the error message.
pub fn decimal<T: TryFrom<i128>>(file: &'static str, text: &[u8]) -> Result<T, ParseError> {
    let mut line = Line::whole(file, text.strip_suffix(b"\n").unwrap_or(text));
    let value = line.decimal("a number")?;
    line.end("nothing behind the number")?;
    Ok(value)
}

/// Parses `/proc/PID/loginuid`; none where it was never set (an id of all ones).
pub fn loginuid(text: &[u8]) -> Result<Option<u32>, ParseError> {
    let uid: u32 = decimal("/proc/PID/loginuid", text)?;
    Ok((uid != u32::MAX).then_some(uid))
}

/// Parses `/proc/PID/oom_score_adj`.
pub fn oom_score_adj(text: &[u8]) -> Result<i32, ParseError> {
    decimal("/proc/PID/oom_score_adj", text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn numbers_are_read() {
        assert_eq!(loginuid(b"4294967295"), Ok(None));
        assert_eq!(loginuid(b"1000"), Ok(Some(1000)));
        assert_eq!(oom_score_adj(b"-1000\n"), Ok(-1000));
        assert!(oom_score_adj(b"").is_err());
        assert!(oom_score_adj(b"1 2").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = (loginuid(&text), oom_score_adj(&text));
        }
    }
}
