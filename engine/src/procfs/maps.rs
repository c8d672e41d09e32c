//! `/proc/PID/maps`: the mappings of a process, documented in proc_pid_maps(5).
//!
//! A process may have many thousands of them, so this is written for speed.

use super::ParseError;
use super::text::{Line, Lines, unescape_octal};

const FILE: &str = "/proc/PID/maps";
/// What the kernel appends to the path of a file without a name.
const DELETED: &[u8] = b" (deleted)";

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vma {
    /// The first address.
    pub start: u64,
    /// The first address behind.
    pub end: u64,
    pub perms: Perms,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// The file's device, as (major, minor); zeros for anonymous memory.
    pub dev: (u32, u32),
    /// The file's inode number; 0 for anonymous memory.
    pub inode: u64,
    /// The last column, with newlines as they are: a path (perhaps with [a suffix](Self::is_deleted)), `[heap]`,
    /// `[anon:NAME]`, or nothing.
    ///
    /// The kernel writes a newline as `\012` and leaves backslashes alone, so a path with these four characters in it
    /// reads like one with a newline; `/proc/PID/map_files` tells them apart.
    pub path: Vec<u8>,
}

/// The `rwxp` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Perms {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    /// `MAP_SHARED`: an `s` where others have a `p`.
    pub shared: bool,
}

/// What the last column says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// Nothing: private anonymous memory.
    Unnamed,
    /// `[heap]`.
    Heap,
    /// `[stack]`.
    Stack,
    /// `[vdso]`.
    Vdso,
    /// `[vvar]`, the data page of the vdso.
    Vvar,
    /// `[vvar_vclock]`, split off `[vvar]` by Linux 6.13.
    VvarVclock,
    /// `[vsyscall]`, at the same address in every process.
    Vsyscall,
    /// `[anon:NAME]`: private anonymous memory named with `PR_SET_VMA_ANON_NAME`.
    Anon(&'a [u8]),
    /// `[anon_shmem:NAME]`: the same for shared anonymous memory.
    AnonShmem(&'a [u8]),
    /// Something else in brackets, such as `[uprobes]`.
    Special(&'a [u8]),
    /// The path of a file, without the suffix that says it was deleted.
    File {
        /// The path.
        path: &'a [u8],
        /// Whether the suffix was there.
        deleted: bool,
    },
}

impl Vma {
    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never true of a mapping that was parsed.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the path ends as that of an unlinked file does. A file can really be called so.
    pub fn is_deleted(&self) -> bool {
        self.path.ends_with(DELETED)
    }

    /// The path without the suffix of unlinked files.
    pub fn path_without_deleted(&self) -> &[u8] {
        self.path.strip_suffix(DELETED).unwrap_or(&self.path)
    }

    /// The last column, taken apart.
    pub fn name(&self) -> Name<'_> {
        let Some(inner) = self.path.strip_prefix(b"[").and_then(|p| p.strip_suffix(b"]")) else {
            return match self.path.as_slice() {
                b"" => Name::Unnamed,
                _ => Name::File { path: self.path_without_deleted(), deleted: self.is_deleted() },
            };
        };
        match inner {
            b"heap" => Name::Heap,
            b"stack" => Name::Stack,
            b"vdso" => Name::Vdso,
            b"vvar" => Name::Vvar,
            b"vvar_vclock" => Name::VvarVclock,
            b"vsyscall" => Name::Vsyscall,
            _ => {
                if let Some(name) = inner.strip_prefix(b"anon:") {
                    Name::Anon(name)
                } else if let Some(name) = inner.strip_prefix(b"anon_shmem:") {
                    Name::AnonShmem(name)
                } else {
                    Name::Special(inner)
                }
            }
        }
    }
}

/// Parses the text of `/proc/PID/maps`.
pub fn parse(text: &[u8]) -> Result<Vec<Vma>, ParseError> {
    // A line is 100 bytes long with a path, and half of that without.
    let mut vmas = Vec::with_capacity(text.len() / 48);
    for line in Lines::new(FILE, text) {
        vmas.push(parse_line(line)?);
    }
    Ok(vmas)
}

pub(super) fn parse_line(mut line: Line<'_>) -> Result<Vma, ParseError> {
    let whole = line;
    let start = line.hex("the first address")?;
    line.byte(b'-', "a dash between two addresses")?;
    let end = line.hex("the last address")?;
    if start >= end {
        return Err(whole.fail("an end above the start"));
    }
    line.byte(b' ', "a space behind the addresses")?;
    let perms = take_perms(&mut line)?;
    line.byte(b' ', "a space behind the permissions")?;
    let offset = line.hex("the offset")?;
    line.byte(b' ', "a space behind the offset")?;
    let dev = take_device(&mut line)?;
    line.byte(b' ', "a space behind the device")?;
    let inode = line.decimal("the inode number")?;
    line.blanks();
    Ok(Vma { start, end, perms, offset, dev, inode, path: unescape_octal(line.rest, b"\n").into_owned() })
}

fn take_perms(line: &mut Line<'_>) -> Result<Perms, ParseError> {
    const EXPECTED: &str = "permissions such as r-xp";
    let Some(([r, w, x, s], rest)) = line.rest.split_first_chunk::<4>() else {
        return Err(line.fail(EXPECTED));
    };
    let flag = |byte: u8, yes: u8, no: u8| match byte {
        _ if byte == yes => Ok(true),
        _ if byte == no => Ok(false),
        _ => Err(line.fail(EXPECTED)),
    };
    let perms = Perms {
        read: flag(*r, b'r', b'-')?,
        write: flag(*w, b'w', b'-')?,
        exec: flag(*x, b'x', b'-')?,
        shared: flag(*s, b's', b'p')?,
    };
    line.rest = rest;
    Ok(perms)
}

fn take_device(line: &mut Line<'_>) -> Result<(u32, u32), ParseError> {
    const EXPECTED: &str = "a device such as fe:00";
    let before = *line;
    let major = line.hex(EXPECTED)?;
    line.byte(b':', EXPECTED)?;
    let minor = line.hex(EXPECTED)?;
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok((major, minor)),
        _ => Err(before.fail(EXPECTED)),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::{any, prop, proptest};
    use rstest::rstest;

    use super::*;

    const REAL: &str = "\
557b2d649000-557b2d64b000 r--p 00002000 fe:00 247282                     /usr/bin/head
7f0000000000-7f0000001000 rw-s 00000000 00:01 1025                       /memfd:a b (deleted)
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
7ffd00030000-7ffd00031000 ---p 00000000 00:00 0 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    fn one(line: &str) -> Result<Vma, ParseError> {
        parse(line.as_bytes()).map(|mut vmas| vmas.remove(0))
    }

    #[test]
    fn lines_of_linux_6_18_are_read() {
        let vmas = parse(REAL.as_bytes()).unwrap();
        assert_eq!(vmas.len(), 5);
        assert_eq!(
            vmas[0],
            Vma {
                start: 0x557b_2d64_9000,
                end: 0x557b_2d64_b000,
                perms: Perms { read: true, ..Perms::default() },
                offset: 0x2000,
                dev: (0xfe, 0),
                inode: 247_282,
                path: b"/usr/bin/head".to_vec(),
            }
        );
        assert_eq!(vmas[0].len(), 0x2000);
        assert_eq!(vmas[1].perms, Perms { read: true, write: true, exec: false, shared: true });
        assert_eq!(vmas[1].name(), Name::File { path: b"/memfd:a b", deleted: true });
        assert_eq!((vmas[2].name(), vmas[3].name()), (Name::Stack, Name::Unnamed));
        assert_eq!((vmas[4].name(), vmas[4].end), (Name::Vsyscall, 0xffff_ffff_ff60_1000));
    }

    #[rstest]
    #[case("[heap]", Name::Heap)]
    #[case("[vdso]", Name::Vdso)]
    #[case("[vvar]", Name::Vvar)]
    #[case("[vvar_vclock]", Name::VvarVclock)]
    #[case("[anon:my heap]", Name::Anon(b"my heap"))]
    #[case("[anon_shmem:]", Name::AnonShmem(b""))]
    #[case("[uprobes]", Name::Special(b"uprobes"))]
    #[case("/dev/zero (deleted)", Name::File { path: b"/dev/zero", deleted: true })]
    #[case("/x]", Name::File { path: b"/x]", deleted: false })]
    fn names_are_told_apart(#[case] path: &str, #[case] name: Name<'_>) {
        assert_eq!(one(&format!("1000-2000 rw-p 00000000 00:00 0    {path}\n")).unwrap().name(), name);
    }

    #[rstest]
    #[case(r"/a\012b", b"/a\nb")]
    #[case(r"/a\040b\", br"/a\040b\")]
    #[case("/trailing ", b"/trailing ")]
    fn newlines_in_paths_come_back(#[case] written: &str, #[case] path: &[u8]) {
        assert_eq!(one(&format!("1000-2000 rw-p 00000000 00:00 0    {written}\n")).unwrap().path, path);
    }

    #[rstest]
    #[case("x", "the first address")]
    #[case("2000-1000 rw-p 0 00:00 0", "an end above the start")]
    #[case("1000-2000 rwxq 0 00:00 0", "permissions such as r-xp")]
    #[case("1000-2000 rwxp z", "the offset")]
    #[case("1000-2000 rwxp 0 fe00", "a device such as fe:00")]
    #[case("1000-2000 rwxp 0 100000000:00 0", "a device such as fe:00")]
    #[case("1000-2000 rwxp 0 fe:00 ", "the inode number")]
    fn damage_is_named(#[case] line: &str, #[case] expected: &str) {
        assert_eq!(one(line).unwrap_err().expected, expected);
    }

    #[test]
    fn a_hundred_thousand_mappings_are_read() {
        let mut text = String::new();
        for i in 0..100_000_u64 {
            let start = 0x7f00_0000_0000 + i * 0x2000;
            let end = start + 0x1000;
            writeln!(
                text,
                "{start:x}-{end:x} rw-p {i:08x} fe:00 247282                     /usr/lib/libc.so.6"
            )
            .unwrap();
        }
        assert_eq!(parse(text.as_bytes()).unwrap().len(), 100_000);
    }

    #[test]
    fn our_own_mappings_are_read() {
        let vmas = parse(&std::fs::read("/proc/self/maps").unwrap()).unwrap();
        assert!(vmas.iter().any(|vma| vma.name() == Name::Stack));
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_damage(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut text = REAL.as_bytes().to_vec();
            let at = at.index(text.len());
            text[at] = byte;
            text.truncate(cut.index(REAL.len()));
            if let Ok(vmas) = parse(&text) {
                for vma in &vmas {
                    let _ = (vma.name(), vma.len());
                }
            }
        }
    }
}
