//! What the links under `/proc/PID/fd`, `map_files` and `ns` point to, by their text alone.
//!
//! The text is a hint: a file may really be called `/x (deleted)`. What matters is checked against `stat`.

use super::text::split_at_byte;

const DELETED: &[u8] = b" (deleted)";

/// A link, classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link<'a> {
    /// A file with a name.
    Path(&'a [u8]),
    /// A file whose name was deleted; the path is without the suffix.
    Deleted(&'a [u8]),
    /// A file that cannot be reached from our root; the path is without the prefix.
    Unreachable(&'a [u8]),
    /// `/memfd:NAME (deleted)`.
    Memfd(&'a [u8]),
    /// `/SYSV00000000 (deleted)`: a System V shared memory segment, by its key.
    SysvShm(u32),
    /// `pipe:[INO]`.
    Pipe(u64),
    /// `socket:[INO]`.
    Socket(u64),
    /// `anon_inode:[eventfd]` or `anon_inode:inotify`: the name without brackets.
    AnonInode(&'a [u8]),
    /// `net:[INO]`.
    Namespace {
        /// Which one.
        kind: NamespaceType,
        /// Its inode number.
        ino: u64,
    },
    /// A text of another form.
    Other(&'a [u8]),
}

/// A type of namespace, by the kernel's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NamespaceType {
    Cgroup,
    Ipc,
    Mnt,
    Net,
    Pid,
    Time,
    User,
    Uts,
}

impl NamespaceType {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Cgroup, Self::Ipc, Self::Mnt, Self::Net, Self::Pid, Self::Time, Self::User, Self::Uts];

    /// The name under `/proc/PID/ns`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Mnt => "mnt",
            Self::Net => "net",
            Self::Pid => "pid",
            Self::Time => "time",
            Self::User => "user",
            Self::Uts => "uts",
        }
    }

    /// The flag of `clone(2)` that makes such a namespace (`include/uapi/linux/sched.h`).
    pub const fn clone_flag(self) -> i32 {
        /// Of `clone3(2)`, `unshare(2)` and `setns(2)` only: for `clone(2)` it would be a part of the exit signal.
        const CLONE_NEWTIME: i32 = 0x80;
        match self {
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Mnt => libc::CLONE_NEWNS,
            Self::Net => libc::CLONE_NEWNET,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Time => CLONE_NEWTIME,
            Self::User => libc::CLONE_NEWUSER,
            Self::Uts => libc::CLONE_NEWUTS,
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }
}

/// Classifies the text of a link, as readlink(2) gives it.
pub fn parse(text: &[u8]) -> Link<'_> {
    if text.starts_with(b"/") {
        return parse_path(text);
    }
    if let Some(path) = text.strip_prefix(b"(unreachable)") {
        return Link::Unreachable(path);
    }
    let Some((kind, rest)) = split_at_byte(text, b':') else {
        return Link::Other(text);
    };
    let inner = rest.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    if kind == b"anon_inode" {
        return Link::AnonInode(inner.unwrap_or(rest));
    }
    let Some(ino) = inner.and_then(inode) else {
        return Link::Other(text);
    };
    match kind {
        b"pipe" => Link::Pipe(ino),
        b"socket" => Link::Socket(ino),
        _ => match NamespaceType::from_name(kind) {
            Some(kind) => Link::Namespace { kind, ino },
            None => Link::Other(text),
        },
    }
}

fn parse_path(text: &[u8]) -> Link<'_> {
    let Some(path) = text.strip_suffix(DELETED) else {
        return Link::Path(text);
    };
    if let Some(name) = path.strip_prefix(b"/memfd:") {
        return Link::Memfd(name);
    }
    match path.strip_prefix(b"/SYSV").and_then(sysv_key) {
        Some(key) => Link::SysvShm(key),
        None => Link::Deleted(path),
    }
}

fn inode(digits: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(digits).ok()?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn sysv_key(digits: &[u8]) -> Option<u32> {
    let digits =
        str::from_utf8(digits).ok().filter(|d| d.len() == 8 && d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/dev/null", Link::Path(b"/dev/null"))]
    #[case("/tmp/gone (deleted)", Link::Deleted(b"/tmp/gone"))]
    #[case("/tmp/gone (deleted)\n (deleted)", Link::Deleted(b"/tmp/gone (deleted)\n"))]
    #[case("(unreachable)/srv/x", Link::Unreachable(b"/srv/x"))]
    #[case("/memfd:a b (deleted)", Link::Memfd(b"a b"))]
    #[case("/memfd:a b", Link::Path(b"/memfd:a b"))]
    #[case("/SYSV0000002a (deleted)", Link::SysvShm(42))]
    #[case("/SYSV+000002a (deleted)", Link::Deleted(b"/SYSV+000002a"))]
    #[case("pipe:[24303]", Link::Pipe(24303))]
    #[case("socket:[23436]", Link::Socket(23436))]
    #[case("socket:[+23436]", Link::Other(b"socket:[+23436]"))]
    #[case("anon_inode:[eventfd]", Link::AnonInode(b"eventfd"))]
    #[case("anon_inode:inotify", Link::AnonInode(b"inotify"))]
    #[case("net:[4026531833]", Link::Namespace { kind: NamespaceType::Net, ino: 4_026_531_833 })]
    #[case("wormhole:[1]", Link::Other(b"wormhole:[1]"))]
    #[case("", Link::Other(b""))]
    fn links_are_told_apart(#[case] text: &str, #[case] link: Link<'_>) {
        assert_eq!(parse(text.as_bytes()), link);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }
    }
}
