//! `/proc/PID/task/TID/children`: the children that a thread made, documented in proc_pid_task(5).
//!
//! The list is only reliable while the thread and its children are stopped.

use super::ParseError;
use super::text::Line;

/// Parses the text of `/proc/PID/task/TID/children`.
pub fn parse(text: &[u8]) -> Result<Vec<i32>, ParseError> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut line = Line::whole("/proc/PID/task/TID/children", text);
    let mut children = Vec::new();
    line.blanks();
    while !line.rest.is_empty() {
        children.push(line.decimal("a list of pids")?);
        line.blanks();
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", &[])]
    #[case("6167 ", &[6167])]
    #[case("6167 6168 7000 ", &[6167, 6168, 7000])]
    fn pids_are_read(#[case] text: &str, #[case] pids: &[i32]) {
        assert_eq!(parse(text.as_bytes()).unwrap(), pids);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(parse(b"12 x").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }
    }
}
