//! `/proc/PID/mountinfo`: the mounts of a mount namespace, documented in proc_pid_mountinfo(5).

use super::ParseError;
use super::text::{Line, Lines, unescape_octal};

const FILE: &str = "/proc/PID/mountinfo";
/// What the kernel escapes in this file (fs/proc_namespace.c): separators, and the comment sign of fstab(5).
const ESCAPED: &[u8] = b" \t\n\\#";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub id: i32,
    pub parent: i32,
    /// Of files on it, as (major, minor).
    pub dev: (u32, u32),
    /// The directory of the file system that is its root.
    pub root: Vec<u8>,
    /// Where it is mounted, relative to the process's root.
    pub mountpoint: Vec<u8>,
    /// Options of this mount: `rw,nosuid`.
    pub options: Vec<u8>,
    pub propagation: Propagation,
    /// `ext4`, `fuse.sshfs`.
    pub fstype: Vec<u8>,
    pub source: Vec<u8>,
    /// Options of the file system.
    pub super_options: Vec<u8>,
}

/// The optional fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Propagation {
    /// The peer group it shares events with.
    pub shared: Option<i32>,
    /// The peer group it receives events from.
    pub master: Option<i32>,
    /// The nearest such group that the process can see.
    pub propagate_from: Option<i32>,
    pub unbindable: bool,
}

/// Parses the text of `/proc/PID/mountinfo`.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, ParseError> {
    Lines::new(FILE, text).map(parse_line).collect()
}

fn parse_line(mut line: Line<'_>) -> Result<Mount, ParseError> {
    Ok(Mount {
        id: line.field("the mount id")?,
        parent: line.field("the parent's mount id")?,
        dev: {
            let major = line.field("the device, major")?;
            line.byte(b':', "a colon in the device")?;
            (major, line.decimal("the device, minor")?)
        },
        root: word(&mut line, "the root")?,
        mountpoint: word(&mut line, "the mount point")?,
        options: word(&mut line, "the options")?,
        propagation: take_propagation(&mut line)?,
        fstype: word(&mut line, "the file system type")?,
        source: take_source(&mut line)?,
        super_options: word(&mut line, "the file system's options")?,
    })
}

fn word(line: &mut Line<'_>, expected: &'static str) -> Result<Vec<u8>, ParseError> {
    line.blanks();
    Ok(unescape_octal(line.word(expected)?, ESCAPED).into_owned())
}

/// A source may be empty: then two separators follow each other.
fn take_source(line: &mut Line<'_>) -> Result<Vec<u8>, ParseError> {
    line.byte(b' ', "a space before the source")?;
    if line.rest.starts_with(b" ") {
        return Ok(Vec::new());
    }
    word(line, "the source")
}

fn take_propagation(line: &mut Line<'_>) -> Result<Propagation, ParseError> {
    const EXPECTED: &str = "a peer group";
    let mut propagation = Propagation::default();
    loop {
        line.blanks();
        if line.skip(b"shared:") {
            propagation.shared = Some(line.decimal(EXPECTED)?);
        } else if line.skip(b"master:") {
            propagation.master = Some(line.decimal(EXPECTED)?);
        } else if line.skip(b"propagate_from:") {
            propagation.propagate_from = Some(line.decimal(EXPECTED)?);
        } else {
            // Fields of newer kernels are passed over, as the manual page asks.
            match line.word("optional fields and a dash")? {
                b"-" => return Ok(propagation),
                b"unbindable" => propagation.unbindable = true,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_plain_mount_is_read() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard,resuid=65534\n";
        let expected = Mount {
            id: 27,
            parent: 1,
            dev: (254, 0),
            root: b"/".to_vec(),
            mountpoint: b"/".to_vec(),
            options: b"rw,relatime".to_vec(),
            propagation: Propagation::default(),
            fstype: b"ext4".to_vec(),
            source: b"/dev/vda".to_vec(),
            super_options: b"rw,discard,resuid=65534".to_vec(),
        };
        assert_eq!(parse(text).unwrap(), [expected]);
    }

    #[rstest]
    #[case("shared:7", Propagation { shared: Some(7), ..Propagation::default() })]
    #[case(
        "shared:1 master:2 propagate_from:3",
        Propagation { shared: Some(1), master: Some(2), propagate_from: Some(3), unbindable: false }
    )]
    #[case("unbindable future:9", Propagation { unbindable: true, ..Propagation::default() })]
    fn optional_fields_are_read(#[case] fields: &str, #[case] propagation: Propagation) {
        let text = format!("27 1 0:5 / /a rw {fields} - tmpfs none rw\n");
        assert_eq!(parse(text.as_bytes()).unwrap()[0].propagation, propagation);
    }

    #[test]
    fn names_are_unescaped_and_sources_may_be_empty() {
        let text = br"30 1 0:5 /r\134 /a\040b\011c\012d rw - tmpfs  rw
31 30 0:6 / /x rw - 9p \043tag ro
";
        let mounts = parse(text).unwrap();
        assert_eq!(
            (mounts[0].root.as_slice(), mounts[0].mountpoint.as_slice()),
            (&b"/r\\"[..], &b"/a b\tc\nd"[..])
        );
        assert_eq!((mounts[0].source.as_slice(), mounts[0].super_options.as_slice()), (&b""[..], &b"rw"[..]));
        assert_eq!(mounts[1].source, b"#tag");
    }

    #[rstest]
    #[case("27 1 254 / / rw - ext4 /dev/vda rw", 1, "a colon in the device")]
    #[case("27 1 0:1 / /a rw - t s rw\n27 1 254:0 / / rw shared:x - ext4", 2, "a peer group")]
    #[case("27 1 254:0 / / rw shared:1", 1, "optional fields and a dash")]
    fn damage_is_named(#[case] text: &str, #[case] line: usize, #[case] expected: &str) {
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!((error.line, error.expected), (line, expected));
    }

    #[test]
    fn our_own_mounts_are_read() {
        assert!(!parse(&std::fs::read("/proc/self/mountinfo").unwrap()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_lines(text in r"27 1 254:0 / / rw( |shared:|-|[0-9]|\\[0-9]{0,3}|[a-z]){0,20}") {
            let _ = parse(text.as_bytes());
        }
    }
}
