//! `/proc/locks`, and the `lock` lines of fdinfo, which have the same form: proc_locks(5).

use super::ParseError;
use super::text::Line;

const FILE: &str = "/proc/locks";

/// What sort of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// Of a process, on a range: `fcntl(F_SETLK)`.
    Posix,
    /// Of an open file description, on a range: `fcntl(F_OFD_SETLK)`.
    Description,
    /// Of an open file description, on the whole file: flock(2).
    Flock,
    /// `fcntl(F_SETLEASE)`.
    Lease,
    /// A lease that somebody else wants to be given up; the type is what it should become.
    BreakingLease,
}

/// One lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lock {
    /// What sort of lock.
    pub sort: Sort,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK` (fcntl.h).
    pub lock_type: i32,
    /// Who took it; -1 where the kernel does not tell, 0 where that process has ended.
    pub pid: i32,
    /// The file system's device, as major and minor number.
    pub device: (u32, u32),
    /// The file's inode number.
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; none: up to the end of the file, however it grows.
    pub end: Option<u64>,
}

impl Lock {
    /// Whether another lock on the same file keeps this one from being taken.
    pub fn conflicts(&self, other: &Self) -> bool {
        let ranged = |lock: &Self| matches!(lock.sort, Sort::Posix | Sort::Description);
        let apart = |a: &Self, b: &Self| a.end.is_some_and(|end| end < b.start);
        let same_sort = ranged(self) && ranged(other) || self.sort == other.sort && self.sort == Sort::Flock;
        same_sort
            && (self.lock_type == libc::F_WRLCK || other.lock_type == libc::F_WRLCK)
            && !apart(self, other)
            && !apart(other, self)
    }
}

/// Parses a line, without the `lock:` that it begins with in fdinfo.
pub fn parse_line(text: &[u8]) -> Result<Lock, ParseError> {
    let mut line = Line::whole(FILE, text);
    line.key("the number of the lock")?;
    let mut word = |expected| -> Result<&[u8], ParseError> {
        line.blanks();
        line.word(expected)
    };
    let (sort, state) = (word("the sort of the lock")?, word("its state")?);
    let lock_type = word("its type")?;
    let sort = match (sort, state) {
        (b"POSIX", _) => Sort::Posix,
        (b"OFDLCK", _) => Sort::Description,
        (b"FLOCK", _) => Sort::Flock,
        (b"LEASE", b"ACTIVE") => Sort::Lease,
        (b"LEASE", b"BREAKING") => Sort::BreakingLease,
        _ => return Err(line.fail("a sort of lock that is known")),
    };
    let lock_type = match lock_type {
        b"READ" => libc::F_RDLCK,
        b"WRITE" => libc::F_WRLCK,
        b"UNLCK" => libc::F_UNLCK,
        _ => return Err(line.fail("READ, WRITE or UNLCK")),
    };
    line.blanks();
    let pid = line.field("who took it")?;
    line.blanks();
    let major = line.hex("its device")? as u32;
    line.byte(b':', "a colon")?;
    let minor = line.hex("its device")? as u32;
    line.byte(b':', "a colon")?;
    let inode = line.field("its inode number")?;
    line.blanks();
    let start = line.field("its first byte")?;
    line.blanks();
    let end = if line.skip(b"EOF") { None } else { Some(line.field("its last byte")?) };
    line.end("nothing more on this line")?;
    Ok(Lock { sort, lock_type, pid, device: (major, minor), inode, start, end })
}

/// Parses `/proc/locks`: the locks that are held, and not the waiting ones.
pub fn held(text: &[u8]) -> Vec<Lock> {
    text.split(|byte| *byte == b'\n').filter_map(|line| parse_line(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1: POSIX  ADVISORY  WRITE 612 fe:00:10728 0 EOF", Sort::Posix, libc::F_WRLCK, 612, 0, None)]
    #[case("12: OFDLCK ADVISORY  READ -1 08:01:5 100 199", Sort::Description, libc::F_RDLCK, -1, 100, Some(199))]
    #[case("1: FLOCK  ADVISORY  READ 1 00:1f:9 0 EOF", Sort::Flock, libc::F_RDLCK, 1, 0, None)]
    #[case("1: LEASE  ACTIVE    WRITE 1 00:1f:9 0 EOF", Sort::Lease, libc::F_WRLCK, 1, 0, None)]
    #[case("1: LEASE  BREAKING  UNLCK 1 00:1f:9 0 EOF", Sort::BreakingLease, libc::F_UNLCK, 1, 0, None)]
    fn lines(
        #[case] text: &str,
        #[case] sort: Sort,
        #[case] lock_type: i32,
        #[case] pid: i32,
        #[case] start: u64,
        #[case] end: Option<u64>,
    ) {
        let lock = parse_line(text.as_bytes()).unwrap();
        assert_eq!((lock.sort, lock.lock_type, lock.pid), (sort, lock_type, pid));
        assert_eq!((lock.start, lock.end), (start, end));
    }

    #[rstest]
    #[case("1: -> POSIX  ADVISORY  WRITE 612 fe:00:10728 0 EOF")]
    #[case("1: DELEG  ACTIVE    READ 1 00:1f:9 0 EOF")]
    #[case("1: POSIX  ADVISORY  WRITE 612 fe:00:10728 0")]
    #[case("")]
    fn strange_lines_are_errors(#[case] text: &str) {
        assert!(parse_line(text.as_bytes()).is_err());
    }

    #[test]
    fn conflicts() {
        let lock = |text: &str| parse_line(format!("1: {text}").as_bytes()).unwrap();
        let whole = lock("POSIX ADVISORY WRITE 1 00:1f:9 0 EOF");
        let part = lock("OFDLCK ADVISORY READ -1 00:1f:9 100 199");
        let behind = lock("POSIX ADVISORY WRITE 2 00:1f:9 200 EOF");
        assert!(whole.conflicts(&part) && part.conflicts(&whole));
        assert!(!part.conflicts(&behind) && !behind.conflicts(&part));
        assert!(!part.conflicts(&part), "both read");
        assert!(!whole.conflicts(&lock("FLOCK ADVISORY WRITE 1 00:1f:9 0 EOF")));
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse_line(&text);
        }
    }
}
