//! `/proc/PID/fdinfo/FD`: position and flags of an open file, and what its kind adds.
//!
//! The lines a kind adds are kept as they are; the kind itself knows what they mean (`kinds/files/`).

use super::ParseError;
use super::text::{Line, Lines};

const FILE: &str = "/proc/PID/fdinfo/FD";

/// One open file, as proc_pid_fdinfo(5) describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdInfo {
    /// The file offset.
    pub pos: i64,
    /// Access mode and status flags, with `O_CLOEXEC` of the descriptor.
    pub flags: i32,
    pub mnt_id: i32,
    /// The inode number, since Linux 5.14.
    pub ino: Option<u64>,
    /// All other lines, in their order, as key and value: `("eventfd-count", "1e")`. The key of a watch is `inotify`
    /// or `fanotify`; of other lines it is what stands before the colon. Keys repeat: one `tfd` line for each target
    /// of an epoll, one `lock` line for each lock.
    pub extra: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FdInfo {
    /// The values of all lines with this key.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.extra.iter().filter(move |(k, _)| k == key.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// The value of the first line with this key.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.extra.iter().find(|(k, _)| k == key.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// The number in the first line with this key.
    pub fn decimal<T: TryFrom<i128>>(&self, key: &'static str) -> Result<T, ParseError> {
        self.number(key)?.decimal(key)
    }

    /// The hexadecimal number in the first line with this key.
    pub fn hex(&self, key: &'static str) -> Result<u64, ParseError> {
        self.number(key)?.hex(key)
    }

    /// The octal number in the first line with this key.
    pub fn octal<T: TryFrom<u64>>(&self, key: &'static str) -> Result<T, ParseError> {
        self.number(key)?.octal(key)
    }

    /// The two numbers in the first line with this key: `(1, 49406829)`.
    pub fn pair(&self, key: &'static str) -> Result<[u64; 2], ParseError> {
        let mut line = self.number(key)?;
        line.byte(b'(', key)?;
        let first = line.decimal(key)?;
        line.byte(b',', key)?;
        let second = line.field(key)?;
        line.byte(b')', key)?;
        Ok([first, second])
    }

    fn number(&self, key: &'static str) -> Result<Line<'_>, ParseError> {
        let line = |text| Line::whole(FILE, text);
        self.value(key).map(line).ok_or_else(|| line(b"").fail(key))
    }
}

/// A `tfd` line: one file that an epoll watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// The number of the file in the task that added it, at that time.
    pub fd: i32,
    /// What is waited for, with `EPOLLET` and the like.
    pub events: u32,
    /// The caller's word.
    pub data: u64,
    /// The file's offset.
    pub position: u64,
    /// The file's inode number.
    pub inode: u64,
    /// The file's device, in the kernel's own encoding.
    pub device: u32,
}

/// The files that an epoll watches.
pub fn watches(info: &FdInfo) -> Result<Vec<Watch>, ParseError> {
    info.values("tfd").map(parse_watch).collect()
}

fn parse_watch(text: &[u8]) -> Result<Watch, ParseError> {
    let mut line = Line::whole(FILE, text);
    let fd = line.field("the number of a watched file")?;
    line.blanks();
    line.skip(b"events:");
    line.blanks();
    let events = line.hex("its events")? as u32;
    line.blanks();
    line.skip(b"data:");
    line.blanks();
    let data = line.hex("its data")?;
    line.blanks();
    line.skip(b"pos:");
    let position = line.field::<i64>("its position")?.cast_unsigned();
    line.blanks();
    line.skip(b"ino:");
    let inode = line.hex("its inode number")?;
    line.blanks();
    line.skip(b"sdev:");
    let device = line.hex("its device")? as u32;
    line.end("nothing more on this line")?;
    Ok(Watch { fd, events, data, position, inode, device })
}

/// Parses the text of `/proc/PID/fdinfo/FD`.
pub fn parse(text: &[u8]) -> Result<FdInfo, ParseError> {
    let (mut pos, mut flags, mut mnt_id, mut ino) = (None, None, None, None);
    let mut extra = Vec::new();
    let mut lines = Lines::new(FILE, text);
    for mut line in lines.by_ref() {
        let key = take_key(&mut line)?;
        match key {
            b"pos" if pos.is_none() => pos = Some(line.decimal("the position")?),
            // The kernel prints an unsigned number of 32 bits.
            b"flags" if flags.is_none() => {
                flags = Some(line.octal::<u32>("the flags in octal")?.cast_signed());
            }
            b"mnt_id" if mnt_id.is_none() => mnt_id = Some(line.decimal("the mount id")?),
            b"ino" if ino.is_none() => ino = Some(line.decimal("the inode number")?),
            _ => {
                extra.push((key.to_vec(), line.rest.to_vec()));
                continue;
            }
        }
        line.end("nothing more on this line")?;
    }
    match (pos, flags, mnt_id) {
        (Some(pos), Some(flags), Some(mnt_id)) => Ok(FdInfo { pos, flags, mnt_id, ino, extra }),
        _ => Err(lines.fail("all of pos, flags and mnt_id")),
    }
}

fn take_key<'a>(line: &mut Line<'a>) -> Result<&'a [u8], ParseError> {
    for key in [&b"inotify"[..], b"fanotify"] {
        if line.rest.strip_prefix(key).is_some_and(|rest| rest.starts_with(b" ")) {
            let key = line.word("a key")?;
            line.blanks();
            return Ok(key);
        }
    }
    line.key("a key and a colon")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[test]
    fn common_lines_are_read() {
        let info = parse(b"pos:\t77\nflags:\t0100001\nmnt_id:\t27\nino:\t10010679\n").unwrap();
        let extra = Vec::new();
        assert_eq!(info, FdInfo { pos: 77, flags: 0o100_001, mnt_id: 27, ino: Some(10_010_679), extra });
    }

    #[test]
    fn a_kernel_before_5_14_has_no_inode_number() {
        assert_eq!(parse(b"pos:\t-1\nflags:\t02\nmnt_id:\t9\n").unwrap().ino, None);
    }

    #[rstest]
    #[case("eventfd-count:               1e\neventfd-id: 1\n", "eventfd-count", &["1e"])]
    #[case("clockid: 0\nsettime flags: 00\nit_value: (0, 0)\n", "settime flags", &["00"])]
    #[case("clockid: 0\nsettime flags: 00\nit_value: (1, 2)\n", "it_value", &["(1, 2)"])]
    #[case("sigmask:\t0000000000000200\n", "sigmask", &["0000000000000200"])]
    #[case(
        "inotify wd:1 ino:3c4a7 sdev:fe00000 mask:2\ninotify wd:2 ino:1\n",
        "inotify",
        &["wd:1 ino:3c4a7 sdev:fe00000 mask:2", "wd:2 ino:1"]
    )]
    #[case("fanotify flags:0 event-flags:8000\n", "fanotify", &["flags:0 event-flags:8000"])]
    #[case(
        "tfd:      100 events:       19 data:               64  pos:0 ino:406 sdev:10\n",
        "tfd",
        &["100 events:       19 data:               64  pos:0 ino:406 sdev:10"]
    )]
    #[case(
        "lock:\t1: FLOCK  ADVISORY  WRITE 6126 fe:00:10010728 0 EOF\n",
        "lock",
        &["1: FLOCK  ADVISORY  WRITE 6126 fe:00:10010728 0 EOF"]
    )]
    fn lines_of_kinds_are_kept(#[case] lines: &str, #[case] key: &str, #[case] values: &[&str]) {
        let info =
            parse(format!("pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1030\n{lines}").as_bytes()).unwrap();
        assert_eq!(
            info.values(key).collect::<Vec<_>>(),
            values.iter().map(|v| v.as_bytes()).collect::<Vec<_>>()
        );
        assert_eq!(info.value(key), values.first().map(|v| v.as_bytes()));
    }

    #[test]
    fn watches_are_read() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t17\n\
            tfd:      100 events:       19 data: 7f19e24d00000064  pos:0 ino:406 sdev:10\n\
            tfd:        3 events: 80000001 data:                3  pos:12 ino:9f sdev:fe00000\n";
        let watch =
            |fd, events, data, position, inode, device| Watch { fd, events, data, position, inode, device };
        assert_eq!(
            watches(&parse(text).unwrap()),
            Ok(vec![
                watch(100, 0x19, 0x7f19_e24d_0000_0064, 0, 0x406, 0x10),
                watch(3, 0x8000_0001, 3, 12, 0x9f, 0xfe0_0000)
            ])
        );
    }

    #[rstest]
    #[case(b"x events: 19 data: 1 pos:0 ino:1 sdev:1", "the number of a watched file")]
    #[case(b"5 what: 19 data: 1 pos:0 ino:1 sdev:1", "its events")]
    #[case(b"5 events: 19 data: 1 pos:0 ino:1", "its device")]
    #[case(b"5 events: 19 data: 1 pos:0 ino:1 sdev:1 new:1", "nothing more on this line")]
    fn a_strange_watch_is_an_error(#[case] text: &[u8], #[case] expected: &str) {
        assert_eq!(parse_watch(text).unwrap_err().expected, expected);
    }

    #[test]
    fn numbers_of_kinds_are_read_in_their_base() {
        let info =
            parse(b"pos:\t0\nflags:\t02\nmnt_id:\t17\neventfd-count: 1e\nticks: 12\nmode: 017\n").unwrap();
        assert_eq!(info.hex("eventfd-count"), Ok(0x1e));
        assert_eq!(info.decimal::<u64>("ticks"), Ok(12));
        assert_eq!(info.octal::<u32>("mode"), Ok(0o17));
        assert_eq!(info.hex("sigmask").unwrap_err().expected, "sigmask");
    }

    #[rstest]
    #[case("flags:\t02\nmnt_id:\t9\n", "all of pos, flags and mnt_id")]
    #[case("pos:\tx\n", "the position")]
    #[case("pos:\t0\nflags:\t9\n", "the flags in octal")]
    #[case("pos:\t0 1\n", "nothing more on this line")]
    #[case("pos:\t0\nwhat\n", "a key and a colon")]
    fn damage_is_named(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(parse(text.as_bytes()).unwrap_err().expected, expected);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_lines(lines in r"(pos|flags|mnt_id|ino|inotify| |:|\t|[0-9]|\n){0,40}") {
            let _ = parse(lines.as_bytes());
        }
    }
}
