//! `/proc/PID/io`: what a process has read and written, documented in proc_pid_io(5).

use super::ParseError;
use super::text::Lines;

/// The counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Io {
    pub rchar: u64,
    pub wchar: u64,
    pub syscr: u64,
    pub syscw: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub cancelled_write_bytes: u64,
}

/// Parses the text of `/proc/PID/io`.
pub fn parse(text: &[u8]) -> Result<Io, ParseError> {
    let mut io = Io::default();
    for mut line in Lines::new("/proc/PID/io", text) {
        let counter = match line.key("a name and a colon")? {
            b"rchar" => &mut io.rchar,
            b"wchar" => &mut io.wchar,
            b"syscr" => &mut io.syscr,
            b"syscw" => &mut io.syscw,
            b"read_bytes" => &mut io.read_bytes,
            b"write_bytes" => &mut io.write_bytes,
            b"cancelled_write_bytes" => &mut io.cancelled_write_bytes,
            _ => continue,
        };
        *counter = line.decimal("a counter")?;
    }
    Ok(io)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn counters_are_read() {
        let text = b"rchar: 7040\nwchar: 64\nsyscr: 12\nsyscw: 1\nread_bytes: 2\nwrite_bytes: 3\ncancelled_write_bytes: 4\n";
        let expected = Io {
            rchar: 7040,
            wchar: 64,
            syscr: 12,
            syscw: 1,
            read_bytes: 2,
            write_bytes: 3,
            cancelled_write_bytes: 4,
        };
        assert_eq!(parse(text), Ok(expected));
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }
    }
}
