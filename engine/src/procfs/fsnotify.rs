//! Lines of `/proc/PID/fdinfo/FD` that tell what an inotify or fanotify descriptor watches.
//!
//! All numbers are hexadecimal (`fs/notify/fdinfo.c`): `wd:1 ino:3c4a7 sdev:fe00000 mask:2 ignored_mask:0
//! fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030043b1c7a8`. The handle is left out where the filesystem has none.

use super::ParseError;
use super::text::{Line, split_at_byte};

const FILE: &str = "/proc/PID/fdinfo/FD";

/// What `name_to_handle_at(2)` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// The filesystem's word for the sort of handle.
    pub kind: u32,
    /// The handle.
    pub bytes: Vec<u8>,
}

/// A watched inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// Its filesystem's device, in the kernel's own encoding.
    pub device: u32,
    /// Its handle.
    pub handle: Option<Handle>,
}

/// An `inotify` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InotifyWatch {
    /// The number of the watch.
    pub wd: u32,
    /// What is waited for.
    pub mask: u32,
    /// Where.
    pub inode: Inode,
}

/// Parses what stands behind `inotify`.
pub fn inotify(text: &[u8]) -> Result<InotifyWatch, ParseError> {
    let fields = Fields::of(text)?;
    Ok(InotifyWatch { wd: fields.short("wd")?, mask: fields.short("mask")?, inode: fields.inode()? })
}

/// What a fanotify mark is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// One inode.
    Inode(Inode),
    /// A mount, by its id.
    Mount(u32),
    /// A filesystem, by its device in the kernel's own encoding.
    Filesystem(u32),
}

/// A `fanotify` line about a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanotifyMark {
    /// On what.
    pub on: Marked,
    /// The mark's own flags.
    pub flags: u32,
    /// What is waited for.
    pub mask: u32,
    /// What is ignored.
    pub ignored: u32,
}

/// Any `fanotify` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FanotifyLine {
    /// The group itself: flags of `fanotify_init(2)`, and of the files that it opens.
    Group {
        /// Of the group.
        flags: u32,
        /// Of files.
        event_flags: u32,
    },
    /// One of its marks.
    Mark(FanotifyMark),
}

/// Parses what stands behind `fanotify`.
pub fn fanotify(text: &[u8]) -> Result<FanotifyLine, ParseError> {
    let fields = Fields::of(text)?;
    if fields.has("event-flags") {
        let (flags, event_flags) = (fields.short("flags")?, fields.short("event-flags")?);
        return Ok(FanotifyLine::Group { flags, event_flags });
    }
    let on = if fields.has("mnt_id") {
        Marked::Mount(fields.short("mnt_id")?)
    } else if fields.has("ino") {
        Marked::Inode(fields.inode()?)
    } else {
        Marked::Filesystem(fields.short("sdev")?)
    };
    let (mask, ignored) = (fields.short("mask")?, fields.short("ignored_mask")?);
    Ok(FanotifyLine::Mark(FanotifyMark { on, flags: fields.short("mflags")?, mask, ignored }))
}

/// Words of the form `key:value`.
struct Fields<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Fields<'a> {
    fn of(text: &'a [u8]) -> Result<Self, ParseError> {
        let mut line = Line::whole(FILE, text);
        let mut fields = Vec::new();
        line.blanks();
        while !line.rest.is_empty() {
            let word = line.word("a key and its value")?;
            let field = split_at_byte(word, b':').ok_or_else(|| line.fail("a key and its value"))?;
            fields.push(field);
            line.blanks();
        }
        Ok(Self(fields))
    }

    fn value(&self, key: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(known, _)| *known == key.as_bytes()).map(|(_, value)| *value)
    }

    fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    fn long(&self, key: &'static str) -> Result<u64, ParseError> {
        let mut line = Line::whole(FILE, self.value(key).unwrap_or_default());
        let number = line.hex(key)?;
        line.end(key)?;
        Ok(number)
    }

    fn short(&self, key: &'static str) -> Result<u32, ParseError> {
        let number = self.long(key)?;
        u32::try_from(number)
            .map_err(|_too_large| Line::whole(FILE, self.value(key).unwrap_or_default()).fail(key))
    }

    fn inode(&self) -> Result<Inode, ParseError> {
        let handle = if self.has("f_handle") { Some(self.handle()?) } else { None };
        Ok(Inode { number: self.long("ino")?, device: self.short("sdev")?, handle })
    }

    fn handle(&self) -> Result<Handle, ParseError> {
        let digits = self.value("f_handle").unwrap_or_default();
        let length = self.long("fhandle-bytes")?;
        let odd = || Line::whole(FILE, digits).fail("f_handle");
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() || length != pairs.len() as u64 {
            return Err(odd());
        }
        let byte = |pair: &[u8; 2]| Line::whole(FILE, pair).hex("f_handle").ok().map(|byte| byte as u8);
        let bytes = pairs.iter().map(byte).collect::<Option<Vec<u8>>>().ok_or_else(odd)?;
        Ok(Handle { kind: self.short("fhandle-type")?, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_watch_is_read() {
        let text = b"wd:1f ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d";
        let handle = Handle { kind: 1, bytes: vec![0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d] };
        let inode = Inode { number: 0x9e7e, device: 0x80_0013, handle: Some(handle) };
        assert_eq!(inotify(text), Ok(InotifyWatch { wd: 0x1f, mask: 0x0800_afce, inode }));
    }

    #[test]
    fn a_filesystem_may_have_no_handles() {
        let watch = inotify(b"wd:1 ino:2 sdev:3 mask:4 ignored_mask:0 ").unwrap();
        assert_eq!(watch.inode, Inode { number: 2, device: 3, handle: None });
    }

    #[test]
    fn lines_of_fanotify_are_read() {
        let group = FanotifyLine::Group { flags: 0x10, event_flags: 0 };
        assert_eq!(fanotify(b"flags:10 event-flags:0"), Ok(group));
        let mark = |on, ignored| FanotifyLine::Mark(FanotifyMark { on, flags: 0, mask: 0x3b, ignored });
        assert_eq!(
            fanotify(b"mnt_id:12 mflags:0 mask:3b ignored_mask:40000000"),
            Ok(mark(Marked::Mount(0x12), 0x4000_0000))
        );
        assert_eq!(
            fanotify(b"sdev:12 mflags:0 mask:3b ignored_mask:0"),
            Ok(mark(Marked::Filesystem(0x12), 0))
        );
        let inode = Inode { number: 0x4f96, device: 0x80_0013, handle: None };
        assert_eq!(
            fanotify(b"ino:4f96 sdev:800013 mflags:0 mask:3b ignored_mask:0"),
            Ok(mark(Marked::Inode(inode), 0))
        );
    }

    #[rstest]
    #[case(b"wd:1 ino", "a key and its value")]
    #[case(b"wd:100000000 ino:1 sdev:1 mask:1", "wd")]
    #[case(b"wd:1 ino:1 sdev:1", "mask")]
    #[case(b"wd:1 ino:1 sdev:1 mask:1 fhandle-bytes:8 fhandle-type:1 f_handle:00", "f_handle")]
    #[case(b"wd:1 ino:1 sdev:1 mask:1 fhandle-bytes:1 fhandle-type:1 f_handle:xx", "f_handle")]
    fn damage_is_named(#[case] text: &[u8], #[case] expected: &str) {
        assert_eq!(inotify(text).unwrap_err().expected, expected);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = inotify(&text);
            let _ = fanotify(&text);
        }
    }
}
